"""TF-IDF with logistic regression as an ONNX graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.models.base import TextClassifier, get_model
from nivesh_lib.models.compact.onnx_session import Graph
from nivesh_lib.models.neural.tokenizer import by_length, padded
from nivesh_lib.models.text.linear import softmax
from nivesh_lib.models.text.tfidf import TfidfClassifier
from nivesh_lib.models.wrappers.selective import _Wrapper

_OPSET = 17
_ROWS = 64  # of a batch
_FLOAT = 1  # onnx.TensorProto.FLOAT


class OnnxTfidf(_Wrapper):
    """A `TfidfClassifier` whose arithmetic is an ONNX graph.

    The graph takes numbers and counts of n-grams and does weights, norms and the linear layer.
    Finding the n-grams stays in Python, with scikit-learn's analysers: ONNX has no operator for
    characters inside word boundaries, so that a text cannot enter the graph.

    Parameters
    ----------
    model : TfidfClassifier
        The model to export; ``fit`` fits a copy of it, exports that and forgets it.
    random_state : int, optional
        Seed of the model inside; None leaves it its own.

    Examples
    --------
    >>> model = OnnxTfidf(TfidfClassifier()).fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    >>> model.predict(["taxes"]).tolist()
    ['tax']
    """

    kind: ClassVar[str] = "onnx_tfidf"

    def __init__(
        self, model: TextClassifier | None = None, random_state: int | None = None
    ) -> None:
        self.model = model
        self.random_state = random_state

    @classmethod
    def of(cls, fitted: TextClassifier) -> Self:
        """Export a model that was fitted already."""
        exported = cls(model=clone(fitted))
        exported._take(fitted)
        return exported

    def _take(self, fitted: TextClassifier) -> None:
        if not isinstance(fitted, TfidfClassifier):
            raise ValueError(f"a model of kind {fitted.kind!r} is not exported; pass a tfidf")
        check_is_fitted(fitted)
        names = {
            family: vectorizer.get_feature_names_out().tolist()
            for family, vectorizer in fitted.vectorizers_.items()
        }
        self.classes_ = fitted.classes_
        self._open(clone(fitted), names, _graph(fitted))

    def _open(self, reader: Any, names: dict[str, list[str]], content: bytes) -> None:
        self._reader = reader
        self._numbers = {
            family: {name: number for number, name in enumerate(known)}
            for family, known in names.items()
        }
        self._analysers = {
            family: vectorizer.build_analyzer()
            for family, vectorizer in reader._new_vectorizers().items()
        }
        self._graph = Graph(content)

    def _proba(self, texts: list[str]) -> np.ndarray:
        return softmax(self._logits(texts))

    def _logits(self, texts: list[str]) -> np.ndarray:
        read = self._reader._read(texts)
        grams = {
            family: [self._counted(family, text) for text in read] for family in self._analysers
        }
        lengths = np.sum([[len(ids) for ids, _ in rows] for rows in grams.values()], axis=0)
        logits = np.empty((len(texts), len(self.classes_)))
        for batch in by_length(lengths, _ROWS):
            inputs = {}
            for family, rows in grams.items():
                inputs[f"{family}_ids"] = padded([rows[row][0] for row in batch], 0)[0]
                inputs[f"{family}_counts"] = padded([rows[row][1] for row in batch], 0)[0]
            logits[batch] = self._graph(**inputs)
        return logits

    def _counted(self, family: str, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of a text's known n-grams and how often each occurs."""
        numbers = self._numbers[family]
        found = [numbers[gram] for gram in self._analysers[family](text) if gram in numbers]
        ids, counts = np.unique(np.array(found, dtype=np.int64), return_counts=True)
        return ids, counts

    def _dump(self, directory: Path) -> dict[str, Any]:
        (directory / "model.onnx").write_bytes(self._graph.content)
        text = json.dumps({family: list(known) for family, known in self._numbers.items()})
        (directory / "vocabulary.json").write_text(text, encoding="utf-8")
        return {"params": self._reader.get_params(deep=False)}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        self.model = get_model("tfidf", **state["params"])
        names = json.loads((directory / "vocabulary.json").read_text(encoding="utf-8"))
        self._open(clone(self.model), names, (directory / "model.onnx").read_bytes())


def _graph(fitted: TfidfClassifier) -> bytes:
    """Return the graph's file: ids and counts of each family, (rows, n-grams), to logits."""
    from onnx import TensorProto, helper, numpy_helper

    inputs, nodes = [], []
    constants: dict[str, Any] = {"one": np.float32(1), "least": np.float32(1e-12)}
    constants |= {"axis": np.array([1], dtype=np.int64), "intercept": fitted.intercept_}
    total, start = "intercept", 0
    for family, vectorizer in fitted.vectorizers_.items():
        size = len(vectorizer.idf_)
        constants[f"{family}_idf"] = vectorizer.idf_.astype(np.float32)
        weights = fitted.coef_[:, start : start + size].T
        constants[f"{family}_weights"] = np.ascontiguousarray(weights)
        for name, kind in ((f"{family}_ids", TensorProto.INT64), (f"{family}_counts", _FLOAT)):
            shape = ["rows", f"{family}_grams"]
            inputs.append(helper.make_tensor_value_info(name, kind, shape))
        nodes += [
            helper.make_node(operator, taken, [made], **options)
            for operator, taken, made, options in _steps(family, total)
        ]
        total, start = f"{family}_total", start + size
    logits = helper.make_tensor_value_info(total, _FLOAT, ["rows", len(fitted.classes_)])
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "tfidf", inputs, [logits], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = 8  # of the operators' set, which every runtime reads that reads that set
    return bytes(model.SerializeToString(deterministic=True))


def _steps(family: str, total: str) -> list[tuple[str, list[str], str, dict[str, Any]]]:
    """Return operator, inputs, output and options of each step of a family of n-grams.

    A count of 0 is padding and weighs 0; 1 + log(count) is min(count, 1) + log(max(count, 1)).
    """
    steps: list[tuple[str, str, str, dict[str, Any]]] = [
        ("Min", "{f}_counts one", "{f}_there", {}),
        ("Max", "{f}_counts one", "{f}_above", {}),
        ("Log", "{f}_above", "{f}_log", {}),
        ("Add", "{f}_there {f}_log", "{f}_tf", {}),
        ("Gather", "{f}_idf {f}_ids", "{f}_rare", {}),
        ("Mul", "{f}_tf {f}_rare", "{f}_raw", {}),
        ("ReduceL2", "{f}_raw", "{f}_norm", {"axes": [1]}),
        ("Max", "{f}_norm least", "{f}_length", {}),
        ("Div", "{f}_raw {f}_length", "{f}_unit", {}),
        ("Unsqueeze", "{f}_unit axis", "{f}_row", {}),
        ("Gather", "{f}_weights {f}_ids", "{f}_speak", {}),
        ("MatMul", "{f}_row {f}_speak", "{f}_votes", {}),
        ("Squeeze", "{f}_votes axis", "{f}_sum", {}),
        ("Add", "{f}_sum {t}", "{f}_total", {}),
    ]
    return [
        (operator, taken.format(f=family, t=total).split(), made.format(f=family), options)
        for operator, taken, made, options in steps
    ]
