"""Dynamic int8 quantization and magnitude pruning of a transformer in torch, for comparison."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from sklearn.utils.validation import check_is_fitted
from torch.ao.nn.quantized.dynamic import Linear as Int8Linear
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
from torch.nn.utils import prune

from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import TextClassifier
from nivesh_lib.models.compact.quantize import dequantize_rows, quantize_rows
from nivesh_lib.models.compact.vocabulary import prune_unreachable, write_tokenizer
from nivesh_lib.models.neural.transformer import TransformerClassifier
from nivesh_lib.models.wrappers.wrapper import Wrapper


@dataclass(eq=False, repr=False)
class QuantizedClassifier(Wrapper):
    """A transformer whose linear layers multiply in int8; it cannot be saved.

    Weights are quantized once, with one scale per output channel; activations at run time, with
    one scale per layer and batch (dynamic quantization, ``torch.ao``), so that a prediction
    depends slightly on the other texts of its batch. Embeddings are rounded to int8 too and kept
    in float32. Speed and accuracy depend on the processor: activations have eight bits with VNNI
    instructions and seven without.

    Parameters
    ----------
    model : TransformerClassifier
        The model to wrap; ``fit`` fits a copy.
    random_state : int, optional
        Seed of the wrapped model; None keeps its own.
    """

    kind: ClassVar[str] = "quantized"

    model: TransformerClassifier | None = None
    random_state: int | None = None

    def _take(self, fitted: TextClassifier) -> None:
        transformer = _transformer(fitted)
        network = copy.deepcopy(transformer.network)
        for table in _modules(network, torch.nn.Embedding):
            table.weight.data.copy_(_rounded(table.weight))
        super()._take(transformer.with_network(_quantized(network)))

    @property
    def size_bytes(self) -> int:
        """The size in bytes of int8 weights with their scales, other weights and the tokenizer.

        Embeddings of tokens that no text can have are not counted.
        """
        network = self.model_.network
        tokenizer, kept = prune_unreachable(self.model_.tokenizer)
        with TemporaryDirectory() as folder:
            write_tokenizer(tokenizer, Path(folder))
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
        words = network.model.get_input_embeddings()
        for table in _modules(network, torch.nn.Embedding):
            rows, width = table.weight.shape
            size += (len(kept) if table is words else rows) * (width + 2)
        for linear in _modules(network, Int8Linear):
            weight, bias = linear.weight(), linear.bias()
            size += weight.numel() + 4 * (len(weight) + bias.numel())
        embedded = {id(table.weight) for table in _modules(network, torch.nn.Embedding)}
        return size + sum(4 * p.numel() for p in network.parameters() if id(p) not in embedded)

    def save(self, directory: Path | str, *, data: str = "", about: dict | None = None) -> Path:
        """Raise ModelError: there is no file format for int8 modules of torch."""
        raise ModelError(
            f"{directory}: int8 models of torch are not saved. Save the transformer, or export it "
            "with OnnxClassifier.of(transformer, texts=queries)"
        )


def _transformer(fitted: TextClassifier) -> TransformerClassifier:
    if not isinstance(fitted, TransformerClassifier):
        raise ValueError(f"a {fitted.kind} model is given; pass a fitted transformer")
    check_is_fitted(fitted)
    return fitted


def _modules(network: Any, kind: type) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, kind)]


def _rounded(weight: Any) -> Any:
    return torch.from_numpy(dequantize_rows(*quantize_rows(weight.detach().numpy())))


def _quantized(network: Any) -> Any:
    """Replace the linear layers of a network by int8 ones, in place."""
    config = {torch.nn.Linear: per_channel_dynamic_qconfig}
    with warnings.catch_warnings():  # its successor is slower on CPUs
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated")
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.qu")
        network = quantize_dynamic(network.eval(), config, inplace=True)
    if _has_vnni():
        for linear in _modules(network, Int8Linear):
            linear.version = 3  # the last one with eight bits for activations
    return network


def _has_vnni() -> bool:
    """Return whether int8 products are summed without overflow here.

    Elsewhere torch uses seven bits for activations, which doubles the quantization error.
    """
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_vnni") or able.get("avx_vnni"))


def pruned(fitted: TransformerClassifier, amount: float = 0.3) -> TransformerClassifier:
    """Return a copy with the smallest encoder weights of each linear layer set to 0.

    Unstructured magnitude pruning (Han et al. 2015) without retraining; ``amount`` 0.3 is that of
    the platform guide. The copy is neither faster nor smaller, since zeros are stored and
    multiplied like other numbers: it shows how many weights the predictions need.

    Parameters
    ----------
    fitted : TransformerClassifier
        Unchanged.
    amount : float
        Share of each layer's weights, from 0 to below 1. Biases and the head are not pruned.

    Raises
    ------
    ValueError
        ``amount`` is out of range, or ``fitted`` is not a transformer.
    """
    if not 0 <= amount < 1:
        raise ValueError(f"amount {amount!r} is not from 0 to below 1")
    network = copy.deepcopy(_transformer(fitted).network)
    for linear in _modules(network.model.base_model, torch.nn.Linear):
        prune.l1_unstructured(linear, "weight", amount=amount)
        prune.remove(linear, "weight")
    return fitted.with_network(network)
