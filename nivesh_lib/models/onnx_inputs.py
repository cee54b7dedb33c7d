"""What the products of an ONNX graph are given, seen on a sample of texts."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from nivesh_lib.models.onnx_session import Graph

_TEXTS = 100  # whose inputs are held at once


@dataclass(frozen=True)
class Inputs:
    """The tokens ``x`` that came to a product.

    ``lows`` and ``highs`` (width,) are the smallest and the largest entries, ``total`` (width,) is
    the sum of the tokens, ``gram`` (width, width) the sum of ``x.T @ x``, all float32; ``n`` is the
    number of tokens.
    """

    lows: np.ndarray
    highs: np.ndarray
    total: np.ndarray
    gram: np.ndarray
    n: int

    @classmethod
    def of(cls, tokens: np.ndarray) -> Self:
        """Return what there is to say of some tokens, (n, width)."""
        lows, highs = tokens.min(axis=0), tokens.max(axis=0)
        return cls(lows, highs, tokens.sum(axis=0), tokens.T @ tokens, len(tokens))

    def __add__(self, other: Inputs) -> Inputs:
        """Return what there is to say of the tokens of both."""
        return Inputs(
            np.minimum(self.lows, other.lows),
            np.maximum(self.highs, other.highs),
            self.total + other.total,
            self.gram + other.gram,
            self.n + other.n,
        )

    def moved(self, centre: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """Return the Gram matrix of ``(x - centre) * factor``, both (width,)."""
        crossed = np.outer(self.total, centre)
        gram = self.gram - crossed - crossed.T + self.n * np.outer(centre, centre)
        return np.asarray(gram * factor * factor[:, None])


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
    """
    names = list(dict.fromkeys(names))
    session = Graph(_with_outputs(model, names).SerializeToString())
    seen: dict[str, Inputs] = {}
    for start in range(0, len(ids), _TEXTS):
        alone = [np.asarray(row)[None] for row in ids[start : start + _TEXTS]]
        values = [session.named(names, ids=row, mask=np.ones_like(row)) for row in alone]
        for name, given in zip(names, zip(*values, strict=True), strict=True):
            tokens = np.concatenate([value.reshape(-1, value.shape[-1]) for value in given])
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
