"""A fine-tuned encoder as one ONNX graph, in float32 and in int8.

torch writes the graph, ONNX Runtime's optimizer joins its nodes to the few large ones for which
it has kernels, and what no answer needs is left out. Nothing here is used to answer.
"""

from __future__ import annotations

import copy
import gc
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nivesh_lib.errors import ModelError

_FAMILIES = ("bert", "distilbert")
_OPSET = 17


def float_graph(network: Any, kept: np.ndarray, max_length: int) -> Any:
    """Return the graph of a classifier of the hub's format, an ``onnx.ModelProto``.

    Parameters
    ----------
    network
        The classifier, which stays as it is.
    kept : array of int
        Rows of the table of word pieces that texts can have; the ids of the graph count these.
    max_length : int
        Ids of the longest text; rows of the table of positions beyond it are left out.

    Returns
    -------
    onnx.ModelProto
        ``ids`` and ``mask``, int32 of any (rows, length), to ``logits``, (rows, classes) float32.

    Raises
    ------
    ModelError
        The encoder is of a family that this module does not know.
    """
    family = network.config.model_type
    if family not in _FAMILIES:
        raise ModelError(
            f"an encoder of the family {family!r} is not exported; these are: {_FAMILIES}"
        )
    slim = copy.deepcopy(network).eval()
    for module in slim.modules():  # what they leave out is left out below, once it is fused
        module._forward_pre_hooks.clear()
    slim.base_model.embeddings = _embeddings(slim.base_model.embeddings, kept, max_length)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        _export(slim, path)
        graph = _fused(path, slim.config)
    gc.collect()  # exporter and optimizer leave half a gigabyte in circles
    _first_token_only(graph)
    return graph


def _embeddings(old: Any, kept: np.ndarray, max_length: int) -> Any:
    """Return what turns ids into vectors. Token types are all 0, so they are a constant."""
    import torch

    class Embeddings(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            places = old.position_embeddings.weight.detach()[:max_length]
            if hasattr(old, "token_type_embeddings"):
                places = places + old.token_type_embeddings.weight.detach()[0]
            self.table = torch.nn.Buffer(old.word_embeddings.weight.detach()[kept])
            self.places = torch.nn.Buffer(places)
            self.norm = old.LayerNorm

        def forward(self, input_ids: Any, *_: Any, **__: Any) -> Any:
            rows = torch.nn.functional.embedding(input_ids, self.table)
            return self.norm(rows + self.places[: input_ids.shape[1]])

    return Embeddings()


def _export(network: Any, path: Path) -> None:
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.network(input_ids=ids, attention_mask=mask).logits

    ids = torch.ones(2, 7, dtype=torch.int32)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    free = {0: "rows", 1: "length"}
    torch.onnx.export(
        Logits().eval(),
        (ids, mask),
        path,
        input_names=["ids", "mask"],
        output_names=["logits"],
        dynamic_axes={"ids": free, "mask": free, "logits": {0: "rows"}},
        opset_version=_OPSET,
        dynamo=False,  # the optimizer knows attention only as this exporter writes it
    )


def _fused(path: Path, config: Any) -> Any:
    from onnxruntime.transformers.optimizer import optimize_model

    heads, width = config.num_attention_heads, config.hidden_size
    model = optimize_model(
        str(path), model_type="bert", num_heads=heads, hidden_size=width, opt_level=1
    ).model
    fused = sum(node.op_type == "Attention" for node in model.graph.node)
    if fused != config.num_hidden_layers:
        raise ModelError(
            f"{fused} of {config.num_hidden_layers} attention layers were joined. Check the "
            "versions of torch, transformers and onnxruntime against requirements.lock"
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep away what exporter and quantiser say of themselves, not of the model."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_token_only(model: Any) -> None:
    """Compute what follows the last attention for the first token alone: the head reads no other.

    That part is three quarters of the layer, and its result stays the same.
    """
    from onnx import helper, numpy_helper

    nodes = list(model.graph.node)
    last = max(n for n, node in enumerate(nodes) if node.op_type == "Attention")
    joins = [n for n in range(last, len(nodes)) if "SkipLayerNorm" in nodes[n].op_type]
    attended, before = nodes[last].output[0], nodes[last].input[0]
    first = numpy_helper.from_array(np.zeros(1, dtype=np.int64), "first_token")
    model.graph.initializer.append(first)
    added = []
    for name in (attended, before):
        inputs = [name, "first_token"]
        added.append(helper.make_node("Gather", inputs, [f"{name}_first"], axis=1))
    for node in nodes[last + 1 : joins[0] + 1]:
        for position, name in enumerate(node.input):
            if name in (attended, before):
                node.input[position] = f"{name}_first"
    set_nodes(model, [*nodes[: last + 1], *added, *nodes[last + 1 :]])


def set_nodes(model: Any, nodes: Sequence[Any]) -> None:
    """Put nodes, in the order in which they run, in place of those of a graph."""
    kept = [copy.deepcopy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
