"""The contract that every text model keeps, and how one is saved and loaded.

A model is a scikit-learn classifier of plain strings: ``fit(X, y)``,
``predict_proba(X)`` with columns in the order of the sorted ``classes_``, and
``predict`` inherited from here. A saved model is a directory: ``model.json``
(kind, arguments, classes, hashes) beside JSON or safetensors files, no pickle.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.errors import ModelError
from nivesh_lib.privacy import anonymize_query

# The one place that knows which models there are: kind -> "module:Class".
MODELS = {
    "rules": "nivesh_lib.models.text.rules:RulesClassifier",
    "tfidf": "nivesh_lib.models.text.tfidf:TfidfClassifier",
    "lstm": "nivesh_lib.models.neural.lstm:LstmClassifier",
    "embedding": "nivesh_lib.models.neural.embedding:EmbeddingClassifier",
    "transformer": "nivesh_lib.models.neural.transformer:TransformerClassifier",
    "onnx": "nivesh_lib.models.compact.onnx_classifier:OnnxClassifier",
    "onnx_tfidf": "nivesh_lib.models.compact.onnx_tfidf:OnnxTfidf",
    "static": "nivesh_lib.models.compact.static:StaticClassifier",
    "quantized": "nivesh_lib.models.compact.torch_int8:QuantizedClassifier",
    "ensemble": "nivesh_lib.models.wrappers.ensemble:EnsembleClassifier",
    "calibrated": "nivesh_lib.models.wrappers.selective:Calibrated",
    "abstaining": "nivesh_lib.models.wrappers.selective:Abstaining",
    "cascade": "nivesh_lib.models.wrappers.cascade:Cascade",
    "remembering": "nivesh_lib.models.wrappers.remembering:Remembering",
}
MAX_CHARACTERS = 10_000  # characters of a text that are read
_FORMAT = 1
_SAFE_SUFFIXES = {".json", ".safetensors", ".onnx", ".txt"}


def as_texts(X: Iterable[str]) -> list[str]:
    """Return ``X`` as a list of strings.

    Raises
    ------
    TypeError
        ``X`` is one string, or holds something that is not a string.
    """
    if isinstance(X, str):
        raise TypeError("X is one string; pass a list of strings, e.g. [text]")
    texts = list(X)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"X[{position}] is {type(text).__name__}, not str")
    return texts


def as_training(X: Iterable[str], y: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Return the prepared texts and the labels to fit on, as a list and an object array.

    What a model learns, it keeps in its files; `prepare` takes personal data out before.

    Raises
    ------
    ValueError
        No rows, or not as many labels as texts.
    """
    texts, labels = as_texts(X), np.asarray(list(y), dtype=object)
    if not texts or len(texts) != len(labels):
        raise ValueError(f"need a label for each of the texts: {len(texts)}, {len(labels)}")
    return [prepare(text) for text in texts], labels


def prepare(text: str) -> str:
    """Return what a model sees of a text: its beginning, personal data replaced by tags.

    The same in training and in use, or tags would be words that no query has.
    """
    return anonymize_query(text[:MAX_CHARACTERS])


class TextClassifier(ClassifierMixin, BaseEstimator):
    """Base of all text models. Subclasses write what raises NotImplementedError here."""

    kind: ClassVar[str] = ""
    classes_: np.ndarray

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Learn from texts ``X`` (n,) and labels ``y`` (n,); return self."""
        raise NotImplementedError

    def predict_proba(self, X: Iterable[str]) -> np.ndarray:
        """Return class probabilities, shape (n, n_classes), columns as in ``classes_``."""
        if not hasattr(self, "classes_"):  # scikit-learn's check takes longer than some answers
            check_is_fitted(self)
        texts = [prepare(text) for text in as_texts(X)]
        return self._proba(texts) if texts else np.empty((0, len(self.classes_)))

    def _proba(self, texts: list[str]) -> np.ndarray:
        """Return the probabilities of one or more texts that `prepare` has seen."""
        raise NotImplementedError

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """Return the most probable label for each text, shape (n,)."""
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(axis=1)]

    def _plain_params(self) -> dict[str, Any]:
        """Return the arguments that ``model.json`` keeps; a wrapper leaves its model out."""
        params = self.get_params(deep=False)
        return {name: _plain(value) for name, value in params.items()}

    def _dump(self, directory: Path) -> dict[str, Any]:
        """Write what was learned below ``directory``; return what fits into ``model.json``."""
        raise NotImplementedError

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        """Set the learned attributes from what ``_dump`` left."""
        raise NotImplementedError

    def save(self, directory: Path | str, *, data: str = "", about: dict | None = None) -> Path:
        """Write the model directory, replacing an older one, and return its path.

        Parameters
        ----------
        directory : path
            Where the model goes. It appears only when it is complete.
        data : str
            The dataset it was trained on, such as ``intents@1.1.0``.
        about : dict, optional
            Anything else worth keeping with the model, JSON-serialisable.

        Raises
        ------
        ModelError
            ``directory`` holds something else than a model, which would be lost, or has no name.
        """
        check_is_fitted(self)
        target = Path(directory)
        if not target.name:
            raise ModelError(f"{str(directory)!r} names no directory of the model's own. Name one")
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            complete = Path(folder) / "model"
            complete.mkdir()
            self._write(complete, data, about or {})
            _put(complete, target)
        return target

    def _write(self, directory: Path, data: str, about: dict) -> None:
        state = self._dump(directory)
        card = {
            "format": _FORMAT,
            "kind": self.kind,
            "params": self._plain_params(),
            "classes": self.classes_.tolist(),
            "data": data,
            "temperature": _plain(getattr(self, "temperature", None)),
            "threshold": _plain(getattr(self, "threshold", None)),
            "state": state,
            "about": about,
            "files": {name: _sha256(directory / name) for name in _file_names(directory)},
        }
        card["sha256"] = _card_sha256(card)
        text = json.dumps(card, ensure_ascii=False, indent=1)
        (directory / "model.json").write_text(text, encoding="utf-8")
        for name in card["files"]:  # safetensors gives only the owner the right to read
            shutil.copymode(directory / "model.json", directory / name)


def _plain(value: Any) -> Any:
    """Return a number of NumPy as one that fits into JSON, anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _replaceable(target: Path) -> bool:
    if not target.exists() or (target / "model.json").is_file():
        return True
    return target.is_dir() and not any(target.iterdir())


def _put(complete: Path, target: Path) -> None:
    """Rename a complete directory into place; the older one comes back where that fails."""
    older = target.with_name(f".{target.name}.old")
    with _held(target.parent):
        if older.exists() and not target.exists():  # the last one to come here was killed
            older.rename(target)
        if not _replaceable(target):  # asked under the lock: another writer may be between renames
            raise ModelError(f"{target}: exists and is no model. Choose a new directory")
        shutil.rmtree(older, ignore_errors=True)
        if target.exists():
            target.rename(older)
        try:
            complete.rename(target)
        except BaseException:
            if older.exists():
                older.rename(target)
            raise
        shutil.rmtree(older, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Let one writer at a time rename what is in a folder; the lock ends with the process.

    Readers share it with each other.
    """
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _card_sha256(card: dict[str, Any]) -> str:
    content = {key: value for key, value in card.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_names(folder: Path) -> list[str]:
    """Return the files below a model directory, as POSIX paths; a model may hold models."""
    paths = (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_class(kind: str) -> type[TextClassifier]:
    """Return the class registered under ``kind``.

    Raises
    ------
    ModelError
        No such kind; the message lists those there are.
    """
    if kind not in MODELS:
        raise ModelError(f"unknown model {kind!r}; there are: {', '.join(sorted(MODELS))}")
    module, _, name = MODELS[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def get_model(kind: str, **params: Any) -> TextClassifier:
    """Return an unfitted model, for example ``get_model("tfidf", C=10.0)``."""
    return model_class(kind)(**params)


def model_hash(card: Mapping[str, Any]) -> str:
    """Return the identity of a saved model: the SHA-256 of its card, which covers its files.

    Without ``about``: the same weights trained in another run are the same model.
    """
    content = {key: value for key, value in card.items() if key not in ("about", "sha256")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_card(directory: Path | str) -> dict[str, Any]:
    """Return the checked ``model.json`` of a model directory.

    Raises
    ------
    ModelError
        The directory is missing, incomplete, altered, or holds a file that
        could run code when loaded.
    """
    folder = Path(directory)
    path = folder / "model.json"
    if not path.is_file():
        raise ModelError(f"{folder}: no model.json here. Pass a directory that `save` wrote")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        files, kind, recorded = dict(card["files"]), str(card["kind"]), card["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not a model description ({error}). Save it again") from None
    if card.get("format") != _FORMAT or kind not in MODELS:
        raise ModelError(
            f"{path}: kind {kind!r} in format {card.get('format')!r} is not known here"
        )
    if recorded != _card_sha256(card):
        raise ModelError(f"{path}: changed since it was saved. Save the model again")
    _check_files(folder, files)
    return card


def _check_files(folder: Path, files: dict[str, str]) -> None:
    present = set(_file_names(folder)) - {"model.json"}
    for name in sorted(present | set(files)):
        path = PurePosixPath(name)
        if path.suffix not in _SAFE_SUFFIXES:
            raise ModelError(f"{folder / name}: this kind of file is refused, it could run code")
        if path.is_absolute() or ".." in path.parts:
            raise ModelError(f"{folder / name}: this file is refused, it lies outside the model")
        if name not in present:
            raise ModelError(f"{folder}: {name} is missing. Copy the whole directory again")
        if name not in files:
            raise ModelError(f"{folder / name}: not listed in model.json. Remove it or save again")
        try:
            same = _sha256(folder / name) == files[name]
        except OSError as error:
            raise ModelError(f"{folder / name}: cannot be read ({error.strerror})") from error
        if not same:
            raise ModelError(f"{folder / name}: changed since it was saved. Save the model again")


def load_model(directory: Path | str) -> TextClassifier:
    """Load any model that ``save`` wrote, after checking every file's hash.

    A newer model may be put in its place at any moment: one of the two is loaded.

    Raises
    ------
    ModelError
        See `read_card`.
    """
    folder = Path(directory)
    try:
        return _loaded(folder)
    except (ModelError, OSError) as error:
        try:
            # Half of it may have come from each model: no writer renames while this is held.
            with _held(folder.parent, shared=True):
                return _loaded(folder)
        except OSError:
            raise error from None


def _loaded(folder: Path) -> TextClassifier:
    card = read_card(folder)
    try:
        model = get_model(card["kind"], **card["params"])
        model.classes_ = np.array(card["classes"], dtype=object)
        model._restore(folder, card["state"])
        answered = model.predict_proba(["a first query"])
    except ModelError:
        raise
    except Exception as error:  # whatever a description that fits no class can set off
        raise ModelError(f"{folder}: does not load ({error!r}). Save the model again") from error
    if not np.isfinite(answered).all():
        raise ModelError(f"{folder}: its weights give no numbers. Fit the model again")
    if answered.shape != (1, len(model.classes_)):
        raise ModelError(f"{folder}: its classes do not fit its weights. Save the model again")
    return model
