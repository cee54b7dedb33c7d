"""Export of a fine-tuned encoder to an optimised float32 ONNX graph.

torch exports the graph, ONNX Runtime's optimizer fuses its nodes into those with fast kernels, and
computations without effect on the logits are removed.
"""

from __future__ import annotations

import copy
import gc
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nivesh_lib.errors import ModelError
from nivesh_lib.models.neural.transformer import logits_module

_FAMILIES = ("bert", "distilbert")
_OPSET = 17


def float_graph(network: Any, kept: np.ndarray, max_length: int) -> Any:
    """Export a classifier in the hub's format.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        The classifier, unchanged.
    kept : array of int
        Rows of the token embeddings to keep; the graph's ids index these.
    max_length : int
        Maximum number of tokens; position embeddings beyond it are dropped.

    Returns
    -------
    onnx.ModelProto
        Inputs ``ids`` and ``mask``, int32 (rows, length); output ``logits``, float32
        (rows, classes).

    Raises
    ------
    ModelError
        The encoder is neither BERT nor DistilBERT, or its attention is not fused.
    """
    family = network.config.model_type
    if family not in _FAMILIES:
        raise ModelError(
            f"an encoder of the family {family!r} is not exported; these are: {_FAMILIES}"
        )
    slim = copy.deepcopy(network).eval()
    for module in slim.modules():  # _first_token_only does the same on the fused graph
        module._forward_pre_hooks.clear()
    slim.base_model.embeddings = _embeddings(slim.base_model.embeddings, kept, max_length)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        _export(slim, path)
        graph = _fused(path, slim.config)
    gc.collect()  # exporter and optimizer leave half a gigabyte in reference cycles
    _first_token_only(graph)
    return graph


def _embeddings(old: Any, kept: np.ndarray, max_length: int) -> Any:
    """Return an embedding module with the kept rows; token type 0 is added to the positions."""
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

    ids = torch.ones(2, 7, dtype=torch.int32)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    free = {0: "rows", 1: "length"}
    torch.onnx.export(
        logits_module(network).eval(),
        (ids, mask),
        path,
        input_names=["ids", "mask"],
        output_names=["logits"],
        dynamic_axes={"ids": free, "mask": free, "logits": {0: "rows"}},
        opset_version=_OPSET,
        dynamo=False,  # the optimizer recognises attention as exported by this exporter only
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
    """Suppress log messages and warnings of exporter and optimizer."""
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
    """Restrict everything after the last attention to the first token, the only one the head reads.

    This saves three quarters of the layer.
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
    replace_items(model.graph.node, [*nodes[: last + 1], *added, *nodes[last + 1 :]])


def replace_items(field: Any, items: Iterable[Any]) -> None:
    """Replace the items of a repeated field of a graph, such as its nodes in order of execution."""
    kept = [copy.deepcopy(item) for item in items]
    del field[:]
    field.extend(kept)
