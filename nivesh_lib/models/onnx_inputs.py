"""What the products of an ONNX graph are given, seen on a sample of texts."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nivesh_lib.models.onnx_session import Graph

_TEXTS = 100  # whose inputs are held at once


@dataclass(frozen=True)
class Inputs:
    """The tokens that came to a product.

    ``peaks`` (width,) are the largest absolute entries, ``gram`` (width, width) is the sum of
    ``x.T @ x``; both float32.
    """

    peaks: np.ndarray
    gram: np.ndarray


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
            seen[name] = _joined(seen.get(name), tokens)
    return seen


def _joined(before: Inputs | None, tokens: np.ndarray) -> Inputs:
    peaks, gram = np.abs(tokens).max(axis=0), tokens.T @ tokens
    if before is None:
        return Inputs(peaks, gram)
    return Inputs(np.maximum(peaks, before.peaks), gram + before.gram)


def _with_outputs(model: Any, names: Sequence[str]) -> Any:
    from onnx import TensorProto, helper

    told = copy.deepcopy(model)
    told.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    return told
