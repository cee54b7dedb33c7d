"""Smaller weights for a trained transformer: eight bits a weight, or fewer weights.

A smaller network that learns from a trained one is in `models.distillation`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.models.base import TextClassifier, as_texts
from nivesh_lib.models.compact.quantize import from_rounded, rounded_rows
from nivesh_lib.models.compact.vocabulary import load_packed, reachable, save_packed
from nivesh_lib.models.neural.backbones import empty_classifier
from nivesh_lib.models.neural.tokenizer import WordPieces
from nivesh_lib.models.neural.transformer import TransformerClassifier, logits_network

_PARTS = ("steps", "scales")


class QuantizedClassifier(TextClassifier):
    """A transformer whose linear layers multiply in eight bits.

    Weights are rounded to int8 once, one scale for each row; activations are rounded as they come,
    one scale for each layer and batch (dynamic quantisation, ``torch.ao``). So a text's neighbours
    in a batch move its answer a little. Vectors of word pieces and positions are int8 in the file,
    one scale for each, and float32 in memory; pieces that no text has, such as ``[unused7]``, are
    left out of the file.

    Parameters
    ----------
    model : TransformerClassifier
        The model to wrap; ``fit`` fits a copy of it and leaves it alone.
    random_state : int, optional
        Seed of the model inside; None leaves it its own.

    Notes
    -----
    How fast this is, and how well it rounds, depends on the processor: activations have eight bits
    where it has VNNI instructions, seven elsewhere.
    """

    kind: ClassVar[str] = "quantized"

    model_: TransformerClassifier

    def __init__(
        self, model: TransformerClassifier | None = None, random_state: int | None = None
    ) -> None:
        self.model = model
        self.random_state = random_state

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fit a copy of the model, then round its weights."""
        if self.model is None:
            raise ValueError("model is None; pass the transformer to quantise")
        inner = clone(self.model)
        if self.random_state is not None:
            inner.set_params(random_state=self.random_state)
        return self._take(inner.fit(as_texts(X), list(y)))

    @classmethod
    def of(cls, fitted: TransformerClassifier) -> Self:
        """Quantise a model that was fitted already; it is left as it is."""
        return cls(model=clone(_transformer(fitted)))._take(fitted)

    def _take(self, fitted: TransformerClassifier) -> Self:
        network = copy.deepcopy(_transformer(fitted).network)
        for _, table in _tables(network):
            table.weight.data.copy_(_rounded(table.weight))
        self.model_ = fitted.with_network(_eight_bits(network))
        self.classes_ = fitted.classes_
        return self

    def _proba(self, texts: list[str]) -> np.ndarray:
        return self.model_._proba(texts)

    def _plain_params(self) -> dict[str, Any]:
        return {"random_state": self.random_state}

    def _dump(self, directory: Path) -> dict[str, Any]:
        from safetensors.torch import save_file

        network, pieces = self.model_.network, self.model_.pieces
        save_file(_tensors(network, pieces), directory / "network.safetensors")
        network.model.config.save_pretrained(directory)
        save_packed(pieces, directory)
        return {"model": self.model_.get_params()}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        from safetensors.torch import load_file

        self.model = TransformerClassifier(**state["model"])
        pieces = load_packed(directory)
        network = _eight_bits(logits_network(empty_classifier(directory)))
        _fill(network, load_file(directory / "network.safetensors"), pieces)
        self.model_ = clone(self.model).restored(network, pieces, self.classes_)


def _transformer(fitted: TextClassifier) -> TransformerClassifier:
    if not isinstance(fitted, TransformerClassifier):
        raise ValueError(f"a {fitted.kind} model is given; pass a fitted transformer")
    check_is_fitted(fitted)
    return fitted


def _tables(network: Any) -> list[tuple[str, Any]]:
    """Return name and module of each table of vectors: pieces, positions, segments."""
    import torch

    found = network.model.named_modules()
    return [(name, module) for name, module in found if isinstance(module, torch.nn.Embedding)]


def _linears(network: Any) -> list[tuple[str, Any]]:
    """Return name and module of each linear layer in eight bits."""
    from torch.ao.nn.quantized.dynamic import Linear

    found = network.model.named_modules()
    return [(name, module) for name, module in found if isinstance(module, Linear)]


def _rounded(weight: Any) -> Any:
    import torch

    return torch.from_numpy(from_rounded(*rounded_rows(weight.detach().numpy())))


def _eight_bits(network: Any) -> Any:
    """Put int8 layers in the place of the linear ones, in a network that is ours to change."""
    import torch
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    how = {torch.nn.Linear: per_channel_dynamic_qconfig}
    with _quiet():
        network = quantize_dynamic(network.eval(), how, inplace=True)
    if _has_vnni():
        for _, linear in _linears(network):
            linear.version = 3  # the last one in which activations have all eight bits
    return network


def _has_vnni() -> bool:
    """Return whether sums of products of eight bits cannot overflow here.

    Elsewhere torch spares one bit of the activations, which doubles what rounding costs.
    """
    import torch

    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_vnni") or able.get("avx_vnni"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep away what torch says of this module's future: its successor is slower on processors."""
    with warnings.catch_warnings():
        for told in ("torch.ao.quantization is deprecated", "torch.quantize_per_tensor, torch.qu"):
            warnings.filterwarnings("ignore", told)
        yield


def _tensors(network: Any, pieces: WordPieces) -> dict[str, Any]:
    """Return what the file holds: integers with their scales, and the rest as it is."""
    import torch

    found: dict[str, Any] = {}
    for name, table in _tables(network):
        rows = table.weight.detach().numpy()
        steps, scales = rounded_rows(rows[_kept(network, table, pieces)])
        found[f"{name}.steps"], found[f"{name}.scales"] = map(torch.from_numpy, (steps, scales))
    for name, linear in _linears(network):
        weight = linear.weight()
        found[f"{name}.steps"] = weight.int_repr()
        found[f"{name}.scales"] = weight.q_per_channel_scales().float()
        found[f"{name}.bias"] = linear.bias().detach()
    held = {f"{name}.weight" for name, _ in _tables(network)}
    rest = {n: p.detach() for n, p in network.model.named_parameters() if n not in held}
    return {name: tensor.contiguous() for name, tensor in (found | rest).items()}


def _fill(network: Any, tensors: dict[str, Any], pieces: WordPieces) -> None:
    """Set the weights of an empty network from what `_tensors` returned."""
    import torch

    for name, table in _tables(network):
        rows = from_rounded(*(tensors.pop(f"{name}.{part}").numpy() for part in _PARTS))
        table.weight.data.zero_()
        table.weight.data[_kept(network, table, pieces)] = torch.from_numpy(rows)
    for name, linear in _linears(network):
        steps, scales = (tensors.pop(f"{name}.{part}") for part in _PARTS)
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        rows = steps * scales.unsqueeze(1)
        with _quiet():
            weight = torch.quantize_per_channel(rows, scales, zeros, axis=0, dtype=torch.qint8)
        linear.set_weight_bias(weight, tensors.pop(f"{name}.bias"))
    for name, parameter in network.model.named_parameters():
        if name in tensors:
            parameter.data.copy_(tensors[name])


def _kept(network: Any, table: Any, pieces: WordPieces) -> Any:
    """Return the rows of a table that are in the file: of pieces, those that a text can have."""
    words = table is network.model.get_input_embeddings()
    return reachable(pieces)[1] if words else slice(None)


def pruned(fitted: TransformerClassifier, amount: float = 0.3) -> TransformerClassifier:
    """Return a copy in whose encoder the smallest weights of each linear layer are 0.

    Unstructured magnitude pruning (Han et al. 2015) without training after it; ``amount`` 0.3 is
    the platform guide's. The zeros lie scattered and are multiplied like any other number: the
    copy is not faster, and its file not smaller. It shows how much of the weights is not needed.

    Parameters
    ----------
    fitted : TransformerClassifier
        Left as it is.
    amount : float
        Share of each layer's weights, from 0 to below 1. Biases and the head are not touched.

    Raises
    ------
    ValueError
        ``amount`` is no such share, or ``fitted`` no transformer.
    """
    from torch.nn.utils import prune

    if not 0 <= amount < 1:
        raise ValueError(f"amount {amount!r} is not from 0 to below 1")
    network = copy.deepcopy(_transformer(fitted).network)
    for linear in _encoder_linears(network):
        prune.l1_unstructured(linear, "weight", amount=amount)
        prune.remove(linear, "weight")
    return fitted.with_network(network)


def sparsity(model: TransformerClassifier) -> float:
    """Return the share of zeros among the weights of the encoder's linear layers."""
    weights = [linear.weight for linear in _encoder_linears(_transformer(model).network)]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / sum(weight.numel() for weight in weights)


def _encoder_linears(network: Any) -> list[Any]:
    import torch

    encoder = network.model.base_model
    return [module for module in encoder.modules() if isinstance(module, torch.nn.Linear)]
