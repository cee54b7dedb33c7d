"""The fine-tuned transformer on ONNX Runtime: smaller, faster, and without torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import (
    TextClassifier,
    as_texts,
    get_model,
    load_model,
    prepare,
    read_card,
)
from nivesh_lib.models.compact.onnx_export import float_graph
from nivesh_lib.models.compact.onnx_int8 import int8_graph
from nivesh_lib.models.compact.onnx_session import Graph
from nivesh_lib.models.compact.vocabulary import load_packed, reachable, save_packed
from nivesh_lib.models.neural.tokenizer import by_length, padded
from nivesh_lib.models.neural.transformer import TransformerClassifier
from nivesh_lib.models.text.linear import softmax
from nivesh_lib.models.wrappers.selective import _Wrapper
from nivesh_lib.reproducibility import machine

PRECISIONS = ("int8", "fp32")
# The largest difference of a probability that another machine may make. An answer that leads by
# more than twice as much keeps its label.
TOLERANCE = 0.05
# Written for this purpose; no row of any dataset.
PROBES = (
    "how much should i put aside every month",
    "can my salary carry the EMI of a ₹45 lakh flat in Nagpur?",
    "kharcha kahan zyada ho raha hai",
    "which is better for me, an index fund or a fixed deposit",
    "how do I get rid of three credit card bills",
    "tax bachane ka sabse aasan tareeka",
    "how many months of rent should lie in a savings account for a rainy day",
    "will 2 crore be enough to stop working at 58",
    "is a term plan of 1cr worth its premium",
    "show what I paid to the grocer last week",
    "split 80k a month between needs and wants",
    "hello, what can you do?",
)
_ROWS = 8  # of a batch, at most: with more, what a layer holds no longer fits the processor's cache
_SAMPLE = 200  # texts that tell how an int8 model is rounded; more changed nothing


class OnnxClassifier(_Wrapper):
    """A `TransformerClassifier` as an ONNX graph; answers need neither torch nor transformers.

    Texts are prepared and cut into word pieces as in the model that was exported.

    Parameters
    ----------
    model : TransformerClassifier
        The model to export; ``fit`` fits a copy of it, exports that and forgets it.
    precision : str
        ``int8``: a quarter of the size, several times as fast, with small differences. ``fp32``:
        the same numbers but for rounding.
    fallback : str, optional
        Directory of a saved model that answers where the int8 answers come out differently; see
        Notes. A relative path starts at the directory of this model.
    random_state : int, optional
        Seed of the model inside; None leaves it its own.

    Notes
    -----
    int8 sums depend on the processor's instructions (VNNI or none). A saved int8 model holds its
    answers to `PROBES` and the machine that gave them. Loading asks again: where a probability
    differs by more than `TOLERANCE`, the fallback answers, with a warning, or loading fails.
    """

    kind: ClassVar[str] = "onnx"

    def __init__(
        self,
        model: TextClassifier | None = None,
        precision: str = "int8",
        fallback: str | None = None,
        random_state: int | None = None,
    ) -> None:
        self.model = model
        self.precision = precision
        self.fallback = fallback
        self.random_state = random_state

    @classmethod
    def of(
        cls,
        fitted: TextClassifier,
        *,
        precision: str = "int8",
        fallback: str | None = None,
        texts: Iterable[str] | None = None,
    ) -> Self:
        """Export a model that was fitted already.

        Parameters
        ----------
        fitted : TransformerClassifier
            The model; it stays as it is.
        precision, fallback
            As in the class.
        texts : iterable of str, optional
            For int8: some of those it was trained on, without labels. Steps are set so that
            answers to texts like these change least; of more than 200, so many are taken. With a
            dozen, logits move by more than twice as much.

        Raises
        ------
        ValueError
            Another kind of model, an unknown precision, or int8 without texts.
        """
        exported = cls(model=clone(fitted), precision=precision, fallback=fallback)
        exported._check()
        exported._take(fitted, () if texts is None else as_texts(texts))
        return exported

    def rounded(self, texts: Iterable[str], *, fallback: str | None = None) -> Self:
        """Return an int8 model of this fp32 one, the same as from `of` without another export.

        Parameters
        ----------
        texts, fallback
            As in `of`.

        Raises
        ------
        ValueError
            This one is not fp32, or there are no texts.
        """
        import onnx

        check_is_fitted(self)
        if self.precision != "fp32":
            raise ValueError("only an fp32 model is rounded; this one is int8 already")
        small = type(self)(model=self.model, precision="int8", fallback=fallback)
        small.classes_ = self.classes_
        graph = onnx.load_from_string(self._graph.content)
        reader = self._reader_of(self._reader, self._reader._pieces)
        small._finish(reader, graph, as_texts(texts))
        return small

    @property
    def falls_back(self) -> bool:
        """Whether the fallback answers, because int8 answers come out differently here."""
        return self._substitute is not None

    _substitute: Any = None

    def _check(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")

    def _fit_inner(self, texts: list[str], labels: list[str]) -> None:
        self._take(self._copy_fitted(texts, labels), texts)

    def _take(self, fitted: TextClassifier, texts: Sequence[str] = ()) -> None:
        if not isinstance(fitted, TransformerClassifier):
            raise ValueError(f"a model of kind {fitted.kind!r} is not exported; pass a transformer")
        check_is_fitted(fitted)
        pieces, kept = reachable(fitted._pieces)
        graph = float_graph(fitted._network.model, kept, fitted.max_length)
        self.classes_ = fitted.classes_
        self._finish(self._reader_of(fitted, pieces), graph, texts)

    def _finish(self, reader: Any, graph: Any, texts: Sequence[str]) -> None:
        """Take a graph of fp32, in the precision asked for."""
        if self.precision == "int8":
            graph = int8_graph(graph, reader._encode(_sample(texts)))
        self._substitute = None
        self._reader = reader
        self._graph = Graph(graph.SerializeToString(deterministic=True))
        self.machine_ = machine()
        self.probes_ = self._answers_to_probes()

    @staticmethod
    def _reader_of(model: Any, pieces: Any) -> Any:
        # An unfitted transformer, without a network, so that texts are read by the same lines.
        reader = clone(model)
        reader._pieces = pieces
        return reader

    def _answers_to_probes(self) -> np.ndarray:
        return self._proba([prepare(text) for text in PROBES])

    def _proba(self, texts: list[str]) -> np.ndarray:
        if self._substitute is not None:
            return np.asarray(self._substitute._proba(texts))
        return softmax(self._logits(texts))

    def _logits(self, texts: list[str]) -> np.ndarray:
        ids = self._reader._encode(texts)
        lengths = np.array([len(row) for row in ids])
        # The longest first: at the end no thread waits long for another.
        batches = by_length(lengths, _batch_rows(len(ids), self._graph.at_once))[::-1]
        pad = self._reader._pieces.pad_id
        inputs = [padded([ids[row] for row in batch], pad) for batch in batches]
        found = self._graph.each([{"ids": table, "mask": mask} for table, mask in inputs])
        logits = np.empty((len(ids), len(self.classes_)))
        logits[np.concatenate(batches)] = np.concatenate(found)
        return logits

    def _dump(self, directory: Path) -> dict[str, Any]:
        (directory / "model.onnx").write_bytes(self._graph.content)
        save_packed(self._reader._pieces, directory)
        return {
            "model": {"kind": self._reader.kind, "params": self._reader.get_params(deep=False)},
            "machine": self.machine_,
            "probes": self.probes_.tolist(),
        }

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        told = state["model"]
        self.model = get_model(told["kind"], **told["params"])
        self._reader = self._reader_of(self.model, load_packed(directory))
        self._graph = Graph((directory / "model.onnx").read_bytes())
        self.machine_ = state["machine"]
        self.probes_ = np.array(state["probes"])
        if self.precision == "int8":
            self._compare(directory)

    def _compare(self, directory: Path) -> None:
        """Ask the probes again, and turn to the fallback where the answers differ."""
        gap = float(np.abs(self._answers_to_probes() - self.probes_).max())
        if gap <= TOLERANCE:
            return
        what = (
            f"{directory}: int8 answers differ on this machine by up to {gap:.2f} of probability, "
            f"{TOLERANCE} is allowed (made on {_named(self.machine_)}, this is "
            f"{_named(machine())})"
        )
        if self.fallback is None:
            raise ModelError(
                f"{what}. Export again here, OnnxClassifier.of(model, texts=queries), "
                "or load the fp32 model"
            )
        folder = directory / Path(self.fallback).expanduser()
        try:
            card = read_card(folder)
        except ModelError as error:
            raise ModelError(f"{what}. The fallback does not load: {error}") from error
        if card["kind"] == self.kind and card["params"].get("precision", "int8") == "int8":
            # It may name this one as its own fallback, and so on without an end.
            raise ModelError(f"{what}. The fallback {folder} is int8 too; name an fp32 model")
        substitute = load_model(folder)
        if substitute.classes_.tolist() != self.classes_.tolist():
            raise ModelError(f"{self.fallback}: its classes are not those of {directory}")
        self._substitute = substitute
        warnings.warn(f"{what}. {self.fallback} answers instead", stacklevel=2)


def _batch_rows(n_texts: int, at_once: int) -> int:
    """Return how many rows a batch has, so that each thread gets as many batches as the others."""
    if n_texts <= _ROWS:
        return _ROWS  # in one batch, which threads share: apart they would take longer
    rounds = -(-n_texts // (_ROWS * at_once))
    return -(-n_texts // (rounds * at_once))


def _sample(texts: Sequence[str]) -> list[str]:
    """Return texts from all over a list, as a model reads them."""
    read = [clean for clean in map(prepare, texts) if clean.strip()]
    if not read:
        raise ValueError(
            "an int8 model needs texts that are not empty to set its steps by; pass some that it "
            "was trained on, texts=queries"
        )
    chosen = np.linspace(0, len(read) - 1, min(len(read), _SAMPLE)).astype(int)
    return [read[row] for row in chosen]


def _named(told: dict[str, Any]) -> str:
    return f"{told['model'] or 'an unknown processor'} with {' '.join(told['flags']) or 'no flags'}"


class _HasLogits(Protocol):
    classes_: np.ndarray

    def _logits(self, texts: list[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class Parity:
    """How near the answers of two models are.

    ``largest`` is the largest absolute difference of a logit, ``agreement`` the share of texts
    with the same label, and ``n`` the number of texts.
    """

    largest: float
    agreement: float
    n: int


def parity(model: _HasLogits, other: _HasLogits, texts: Iterable[str]) -> Parity:
    """Compare two models with the same classes, such as one and its export, on texts.

    Raises
    ------
    ValueError
        No texts, other classes, or an int8 model whose fallback answers.
    TypeError
        One of them has no logits.
    """
    for compared in (model, other):
        if not hasattr(compared, "_logits"):
            raise TypeError(f"{type(compared).__name__} has no logits; pass a transformer")
        check_is_fitted(compared)
    if model.classes_.tolist() != other.classes_.tolist():
        raise ValueError("the classes of the two models differ; compare a model with its export")
    if any(getattr(one, "falls_back", False) for one in (model, other)):
        raise ValueError("the fallback answers for one of them; compare the fallback itself")
    read = [prepare(text) for text in as_texts(texts)]
    if not read:
        raise ValueError("texts is empty; pass at least one")
    one, two = model._logits(read), other._logits(read)
    same = one.argmax(axis=1) == two.argmax(axis=1)
    return Parity(float(np.abs(one - two).max()), float(same.mean()), len(read))
