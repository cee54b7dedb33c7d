"""A fine-tuned transformer as an ONNX graph, for inference without torch."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import SEEDS, TextClassifier, as_texts, get_model, load_member, prepare
from nivesh_lib.models.compact.onnx_check import check_onnx
from nivesh_lib.models.compact.onnx_export import float_graph
from nivesh_lib.models.compact.onnx_int8 import int8_graph
from nivesh_lib.models.compact.onnx_session import OnnxSession
from nivesh_lib.models.compact.vocabulary import prune_unreachable, read_tokenizer, write_tokenizer
from nivesh_lib.models.directory import MAX_TENSOR_BYTES, read_bytes, read_card
from nivesh_lib.models.neural.tokenizer import batches_by_length, padded
from nivesh_lib.models.neural.transformer import TransformerClassifier
from nivesh_lib.models.text.linear import softmax
from nivesh_lib.models.wrappers.wrapper import Wrapper
from nivesh_lib.reproducibility import machine

PRECISIONS = ("int8", "fp32")
# Largest accepted difference of a probability on another machine. A label whose probability leads
# by more than twice as much is the same.
TOLERANCE = 0.05
# Inputs of the self-check; no row of any dataset.
SELF_CHECK_INPUTS = (
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
_BATCH_ROWS = 8  # at most: activations of larger batches exceed the processor's cache
_CALIBRATION_TEXTS = 200  # more did not change an int8 model
_FALLBACK = "fallback"  # the folder of the fallback in a model directory


@dataclass(eq=False, repr=False)
class OnnxClassifier(Wrapper):
    """A `TransformerClassifier` as an ONNX graph; inference needs neither torch nor transformers.

    Text preparation and tokenization are those of the exported model.

    Parameters
    ----------
    model : TransformerClassifier
        The model to export; ``fit`` fits a copy and exports it.
    precision : str
        ``int8``: a quarter of the size and several times as fast, with slightly different
        probabilities. ``fp32``: the same probabilities up to rounding.
    fallback : str, optional
        Directory of a saved model that predicts where the self-check of an int8 model fails.
        `save` copies it into the model directory; nothing outside that is read on loading.
    random_state : int, optional
        Seed of the wrapped model; None keeps its own.

    Notes
    -----
    int8 sums depend on the processor (VNNI or not). A saved int8 model holds its probabilities for
    `SELF_CHECK_INPUTS` and the machine they were computed on. Loading computes them again: if one
    differs by more than `TOLERANCE`, the fallback predicts, with a warning, or loading fails.
    """

    kind: ClassVar[str] = "onnx"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"random_state": SEEDS}

    model: TextClassifier | None = None
    precision: str = "int8"
    fallback: str | None = None
    random_state: int | None = None

    @classmethod
    def of(  # type: ignore[override]
        cls,
        fitted: TextClassifier,
        *,
        precision: str = "int8",
        fallback: str | None = None,
        texts: Iterable[str] | None = None,
    ) -> Self:
        """Export a fitted model.

        Parameters
        ----------
        fitted : TransformerClassifier
            Unchanged.
        precision, fallback
            See the class.
        texts : iterable of str, optional
            Calibration texts for int8: some of the training texts, of which 200 are used. With a
            dozen, logits change more than twice as much.

        Raises
        ------
        ValueError
            Another kind of model, an unknown precision, or int8 without texts.
        """
        exported = cls(model=clone(fitted), precision=precision, fallback=fallback)
        exported._check()
        exported._take(fitted, () if texts is None else as_texts(texts))
        return exported

    def _check(self) -> None:
        super()._check()
        if self.fallback is not None and not isinstance(self.fallback, str):
            raise ValueError(f"fallback {self.fallback!r} is no path of a model directory")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")

    def _fit_inner(self, texts: list[str], labels: list[str]) -> None:
        self._take(self._copy_fitted(texts, labels), texts)

    def _take(self, fitted: TextClassifier, texts: Sequence[str] = ()) -> None:
        if not isinstance(fitted, TransformerClassifier):
            raise ValueError(f"a model of kind {fitted.kind!r} is not exported; pass a transformer")
        check_is_fitted(fitted)
        tokenizer, kept = prune_unreachable(fitted.tokenizer)
        graph = float_graph(fitted.network.model, kept, fitted.max_length)
        self.classes_ = fitted.classes_
        self._encoder = self._encoder_of(fitted, tokenizer)
        if self.precision == "int8":
            graph = int8_graph(graph, self._encoder._encode(_calibration_sample(texts)))
        self._fallback_model: TextClassifier | None = None
        self._session = OnnxSession(graph.SerializeToString(deterministic=True))
        self.machine_ = machine()
        self.self_check_ = self._self_check()

    @staticmethod
    def _encoder_of(model: Any, tokenizer: Any) -> Any:
        """Return an unfitted transformer without a network, for its ``_encode``."""
        encoder = clone(model)
        encoder._tokenizer = tokenizer
        return encoder

    def _self_check(self) -> np.ndarray:
        return self._proba([prepare(text) for text in SELF_CHECK_INPUTS])

    predict = TextClassifier.predict  # there is no wrapped model to ask

    def _proba(self, texts: list[str]) -> np.ndarray:
        if self._fallback_model is not None:
            return np.asarray(self._fallback_model._proba(texts))
        return softmax(self._logits(texts))

    def _logits(self, texts: list[str]) -> np.ndarray:
        ids = self._encoder._encode(texts)
        lengths = np.array([len(row) for row in ids])
        # Longest first, so that no thread waits long for the last batch.
        rows = _batch_rows(len(ids), self._session.max_parallel)
        batches = batches_by_length(lengths, rows)[::-1]
        pad = self._encoder._tokenizer.pad_id
        inputs = [padded([ids[row] for row in batch], pad) for batch in batches]
        found = self._session.run_batches([{"ids": table, "mask": mask} for table, mask in inputs])
        logits = np.empty((len(ids), len(self.classes_)))
        logits[np.concatenate(batches)] = np.concatenate(found)
        return logits

    def _plain_params(self) -> dict[str, Any]:
        packed = None if self.fallback is None else _FALLBACK
        return super()._plain_params() | {"fallback": packed}

    def _dump(self, directory: Path) -> dict[str, Any]:
        if self.fallback is not None:
            self._pack(Path(self.fallback).expanduser(), directory / _FALLBACK)
        (directory / "model.onnx").write_bytes(self._session.content)
        write_tokenizer(self._encoder._tokenizer, directory)
        return {
            "model": {"kind": self._encoder.kind, "params": self._encoder.get_params(deep=False)},
            "machine": self.machine_,
            "probes": self.self_check_.tolist(),
        }

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        self.model = get_model(state["model"]["kind"], **state["model"]["params"])
        self.model._check()
        self._encoder = self._encoder_of(self.model, read_tokenizer(directory))
        self._session = OnnxSession(self._checked_graph(directory))
        self._fallback_model = None
        # Earlier releases could name a model outside, which is not read.
        fallback = self.fallback
        self.fallback = str(directory / _FALLBACK) if fallback == _FALLBACK else None
        self.machine_ = state["machine"]
        self.self_check_ = np.array(state["probes"], dtype=np.float64)
        if self.self_check_.shape != (len(SELF_CHECK_INPUTS), len(self.classes_)):
            raise ModelError(
                f"{directory}: its classes do not fit its weights: its self-check has others. "
                "Save the model again"
            )
        if self.precision == "int8":
            self._compare(directory, fallback)

    def _checked_graph(self, directory: Path) -> bytes:
        """Return the graph's file if the texts that loading asks cost neither memory nor time."""
        content = read_bytes(directory, "model.onnx", limit=MAX_TENSOR_BYTES)
        longest = max(map(len, self._encoder._encode(list(SELF_CHECK_INPUTS))))
        inputs = (len(SELF_CHECK_INPUTS), longest)
        check_onnx(directory / "model.onnx", content, inputs, self._encoder.max_length)
        return content

    def _pack(self, source: Path, target: Path) -> None:
        """Copy the fallback, with all its files verified, into the model directory."""
        card = read_card(source)
        if card["kind"] == self.kind and card["params"].get("precision", "int8") == "int8":
            raise ModelError(f"{source}: a fallback that is int8 too may fail; name an fp32 model")
        if card["classes"] != self.classes_.tolist():
            raise ModelError(f"{source}: the classes of the fallback are not those of the model")
        shutil.copytree(source, target)

    def _compare(self, directory: Path, fallback: str | None) -> None:
        """Repeat the self-check and load the fallback if it fails."""
        gap = float(np.abs(self._self_check() - self.self_check_).max())
        if gap <= TOLERANCE:
            return
        failure = (
            f"{directory}: int8 answers differ on this machine by up to {gap:.2f} of probability, "
            f"{TOLERANCE} is allowed (made on {_named(self.machine_)}, this is "
            f"{_named(machine())})"
        )
        if fallback is None:
            raise ModelError(
                f"{failure}. Export again here, OnnxClassifier.of(model, texts=queries), "
                "or load the fp32 model"
            )
        if self.fallback is None:
            raise ModelError(
                f"{failure}. Its fallback {fallback!r} lies outside the model and is not read: "
                "load that model itself"
            )
        try:
            model = load_member(directory, _FALLBACK)
        except ModelError as error:
            raise ModelError(f"{failure}. The fallback does not load: {error}") from error
        if model.classes_.tolist() != self.classes_.tolist():
            raise ModelError(f"{self.fallback}: its classes are not those of {directory}")
        self._fallback_model = model
        warnings.warn(f"{failure}. {self.fallback} answers instead", stacklevel=2)


def _batch_rows(n_texts: int, parallel: int) -> int:
    """Return the rows of a batch, so that each thread gets the same number of batches."""
    if n_texts <= _BATCH_ROWS:
        return _BATCH_ROWS  # one batch that all threads share is faster than several small ones
    rounds = -(-n_texts // (_BATCH_ROWS * parallel))
    return -(-n_texts // (rounds * parallel))


def _calibration_sample(texts: Sequence[str]) -> list[str]:
    """Return evenly spaced, prepared, non-empty texts."""
    prepared = [clean for clean in map(prepare, texts) if clean.strip()]
    if not prepared:
        raise ValueError(
            "an int8 model needs texts that are not empty to set its steps by; pass some that it "
            "was trained on, texts=queries"
        )
    rows = np.linspace(0, len(prepared) - 1, min(len(prepared), _CALIBRATION_TEXTS)).astype(int)
    return [prepared[row] for row in rows]


def _named(info: dict[str, Any]) -> str:
    return f"{info['model'] or 'an unknown processor'} with {' '.join(info['flags']) or 'no flags'}"
