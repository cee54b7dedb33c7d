"""What the products of an ONNX graph are given, seen on a sample of texts."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from nivesh_lib.errors import ModelError
from nivesh_lib.models.onnx_session import Graph

_TEXTS = 100  # whose inputs are held at once


@dataclass(frozen=True)
class Inputs:
    """The ``n`` tokens ``x`` that came to a product.

    ``lows``, ``highs`` and ``mean`` (width,) are of the entries of each channel; ``scatter``
    (width, width) is the sum of ``(x - mean).T @ (x - mean)``: about the mean, since entries that
    vary little around a large one would be lost in the square of it. All float32.
    """

    lows: np.ndarray
    highs: np.ndarray
    mean: np.ndarray
    scatter: np.ndarray
    n: int

    @classmethod
    def of(cls, tokens: np.ndarray) -> Self:
        """Return what there is to say of some tokens, (n, width)."""
        mean = tokens.mean(axis=0)
        apart = tokens - mean
        return cls(tokens.min(axis=0), tokens.max(axis=0), mean, apart.T @ apart, len(tokens))

    def __add__(self, other: Inputs) -> Inputs:
        """Return what there is to say of the tokens of both (Chan et al. 1979)."""
        n, apart = self.n + other.n, other.mean - self.mean
        return Inputs(
            np.minimum(self.lows, other.lows),
            np.maximum(self.highs, other.highs),
            self.mean + apart * (other.n / n),
            self.scatter + other.scatter + np.outer(apart, apart) * (self.n * other.n / n),
            n,
        )

    def moved(self, centre: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """Return the Gram matrix of ``(x - centre) * factor``, both (width,)."""
        apart = (self.mean - centre) * factor
        return np.asarray(self.scatter * factor * factor[:, None] + self.n * np.outer(apart, apart))


def seen_inputs(model: Any, names: Iterable[str], ids: Sequence[np.ndarray]) -> dict[str, Inputs]:
    """Run a graph of `onnx_graph.float_graph` on texts and return what came to its products.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph, which stays as it is.
    names : iterable of str
        The values inside that are wanted, float32 of (rows, length, width).
    ids : sequence of int arrays
        Word pieces of each text; at least one text.

    Raises
    ------
    ModelError
        A value is infinite or none.
    """
    names = list(dict.fromkeys(names))
    session = Graph(_with_outputs(model, names).SerializeToString())
    seen: dict[str, Inputs] = {}
    for start in range(0, len(ids), _TEXTS):
        alone = [np.asarray(row)[None] for row in ids[start : start + _TEXTS]]
        values = [session.named(names, ids=row, mask=np.ones_like(row)) for row in alone]
        for name, given in zip(names, zip(*values, strict=True), strict=True):
            tokens = np.concatenate([value.reshape(-1, value.shape[-1]) for value in given])
            if not np.isfinite(tokens).all():
                raise ModelError(f"{name}: its weights give no numbers. Fit the model again")
            found = Inputs.of(tokens)
            seen[name] = seen[name] + found if name in seen else found
    return seen


def _with_outputs(model: Any, names: Sequence[str]) -> Any:
    from onnx import TensorProto, helper

    told = copy.deepcopy(model)
    told.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    return told
