"""The estimator contract of text models and the model directory.

A model is a scikit-learn classifier of strings: ``fit(X, y)``, ``predict_proba(X)`` with columns
in the order of the sorted ``classes_``, and an inherited ``predict``. A model directory holds
``model.json`` (kind, constructor arguments, classes, file hashes) beside JSON, text, safetensors
or ONNX files; nothing is pickled.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.errors import ModelError
from nivesh_lib.files import locked, remove_abandoned, replace_folder, restore_folder, sha256_file
from nivesh_lib.models.directory import (
    FORMAT,
    MODELS,
    card_sha256,
    check_members,
    member_directory,
    model_files,
    read_card,
    unchecked_card,
)
from nivesh_lib.privacy import anonymize_query

# Constructor arguments in model.json of earlier releases -> their present names.
_RENAMED_ARGUMENTS = {"direct": "identity_pooler", "slips": "typo_rate"}
SEEDS = (0, 2**32 - 1)  # range of random_state
MAX_CHARACTERS = 10_000  # the rest of a longer text is ignored


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
    """Return the prepared texts, a list, and the labels, an object array (n,), to fit on.

    `prepare` removes personal data first, since a model's files hold what it learned.

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
    """Return a text truncated to `MAX_CHARACTERS`, with personal data replaced by tags.

    Applied in training and in inference alike, so that both see the same tags.
    """
    return anonymize_query(text[:MAX_CHARACTERS])


class TextClassifier(ClassifierMixin, BaseEstimator):
    """Base class of all text models; subclasses override what raises NotImplementedError."""

    kind: ClassVar[str] = ""
    # Argument -> smallest and largest value; whole numbers where the smallest is one.
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    classes_: np.ndarray

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fit on texts ``X`` (n,) and labels ``y`` (n,); return self."""
        raise NotImplementedError

    def predict_proba(self, X: Iterable[str]) -> np.ndarray:
        """Return class probabilities, shape (n, n_classes), columns as in ``classes_``."""
        if not hasattr(self, "classes_"):  # check_is_fitted is slower than some predictions
            check_is_fitted(self)
        texts = [prepare(text) for text in as_texts(X)]
        return self._proba(texts) if texts else np.empty((0, len(self.classes_)))

    def _proba(self, texts: list[str]) -> np.ndarray:
        """Return class probabilities, (n, n_classes), of at least one prepared text."""
        raise NotImplementedError

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """Return the most probable label for each text, shape (n,)."""
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(axis=1)]

    def architecture(self) -> dict[str, Any]:
        """Return ``n_parameters``, the number of learned values, and what else sets it up."""
        learned = (value for name, value in vars(self).items() if name.endswith("_"))
        arrays = (value for value in learned if getattr(value, "dtype", None) is not None)
        return {"n_parameters": sum(array.size for array in arrays if array.dtype.kind == "f")}

    def _check(self) -> None:
        """Raise ValueError where an argument is out of range; before fitting and on loading."""
        for name, (low, high) in self.ranges.items():
            value = getattr(self, name)
            number: Any = Integral if isinstance(low, int) else Real
            if value is None and getattr(type(self), name, None) is None:
                continue  # its default
            right = isinstance(value, number) and not isinstance(value, bool | np.bool_)
            if not (right and low <= value <= high):
                raise ValueError(f"{name} {value!r:.60} is no number from {low:,} to {high:,}")

    def _plain_params(self) -> dict[str, Any]:
        """Return the constructor arguments for ``model.json``, without wrapped models."""
        params = self.get_params(deep=False).items()
        return {k: _plain(v) for k, v in params if not isinstance(v, TextClassifier)}

    def _dump(self, directory: Path) -> dict[str, Any]:
        """Write the learned state into ``directory``; return its JSON part for ``model.json``."""
        raise NotImplementedError

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        """Set the learned attributes from what ``_dump`` wrote and returned."""
        raise NotImplementedError

    def save(self, directory: Path | str, *, data: str = "", about: dict | None = None) -> Path:
        """Write the model directory atomically, replacing an older one; return its path.

        Parameters
        ----------
        directory : path
            The model directory.
        data : str
            The training dataset, such as ``intents@1.2.0``.
        about : dict, optional
            JSON-serialisable metadata.

        Raises
        ------
        ModelError
            ``directory`` exists and is not a model directory, or its path has no name.
        """
        check_is_fitted(self)
        target = Path(directory)
        if not target.name:
            raise ModelError(f"{str(directory)!r} names no directory of the model's own. Name one")
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target.parent, name=target.name, deep=False)
        with TemporaryDirectory(
            dir=target.parent, prefix=f".{target.name}.", suffix=f".{os.getpid()}.partial"
        ) as folder:
            complete = Path(folder) / "model"
            complete.mkdir()
            self._write(complete, data, about or {})
            _replace(complete, target)
        return target

    def _write(self, directory: Path, data: str, about: dict) -> None:
        state = self._dump(directory)
        names = list(model_files(directory))
        check_members(directory, names)
        card = {
            "format": FORMAT,
            "kind": self.kind,
            "params": self._plain_params(),
            "classes": self.classes_.tolist(),
            "data": data,
            "temperature": _plain(getattr(self, "temperature", None)),
            "threshold": _plain(getattr(self, "threshold", None)),
            "state": state,
            "about": about,
            "files": {name: sha256_file(directory / name) for name in names},
        }
        card["sha256"] = card_sha256(card)
        text = json.dumps(card, ensure_ascii=False, indent=1)
        (directory / "model.json").write_text(text, encoding="utf-8")
        for name in card["files"]:  # safetensors creates files that only their owner can read
            shutil.copymode(directory / "model.json", directory / name)


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as a Python number, anything else unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def _replaceable(target: Path) -> bool:
    if not target.exists() or (target / "model.json").is_file():
        return True
    return target.is_dir() and not any(target.iterdir())


def _replace(complete: Path, target: Path) -> None:
    """Rename a complete directory to ``target``, which may be an older model."""
    with locked(target.parent):
        restore_folder(target)
        if not _replaceable(target):  # under the lock: others may be renaming
            raise ModelError(f"{target}: exists and is no model. Choose a new directory")
        replace_folder(complete, target)


def get_model(kind: str, **params: Any) -> TextClassifier:
    """Return an unfitted model, for example ``get_model("tfidf", C=10.0)``.

    Raises
    ------
    ModelError
        The kind is not registered; the message lists those that are.
    """
    if kind not in MODELS:
        raise ModelError(f"unknown model {kind!r}; there are: {', '.join(sorted(MODELS))}")
    module, _, name = MODELS[kind].partition(":")
    return getattr(importlib.import_module(module), name)(**params)


def load_model(directory: Path | str) -> TextClassifier:
    """Load a model directory of any kind after verifying every file's hash.

    A concurrent `save` to the same path is safe: either the old or the new model is loaded.

    Raises
    ------
    ModelError
        See `read_card`; or the arguments, classes and weights do not fit each other.
    """
    model, _ = load_with_card(directory)
    return model


def load_with_card(directory: Path | str) -> tuple[TextClassifier, dict[str, Any]]:
    """Return what `load_model` and `read_card` return, reading the files once.

    Raises
    ------
    ModelError
        See `load_model`.
    """
    folder = Path(directory)
    before = _identity(folder)
    try:
        return _loaded(folder, read_card(folder))
    except (ModelError, OSError) as error:
        if before == _identity(folder) is not None or not folder.parent.is_dir():
            raise
        try:
            # A writer has replaced the folder meanwhile: read again while none can.
            with locked(folder.parent, shared=True):
                return _loaded(folder, read_card(folder))
        except OSError:
            raise error from None


def _identity(folder: Path) -> tuple[int, ...] | None:
    """Return what differs after `save` has replaced a folder, None while there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def load_member(directory: Path, name: str) -> TextClassifier:
    """Load a model that lies inside the model directory that is being loaded, for `_restore`.

    The outer model's card covers its files: their hashes are not computed again. Nor is a failure
    tried again, which would multiply with every level.

    Raises
    ------
    ModelError
        See `load_model`; or ``name`` is not that of a folder in ``directory``.
    """
    folder = member_directory(directory, name)
    model, _ = _loaded(folder, unchecked_card(folder))
    return model


def _loaded(folder: Path, card: dict[str, Any]) -> tuple[TextClassifier, dict[str, Any]]:
    try:
        model = get_model(card["kind"], **_current_names(card["params"]))
        model._check()
        model.classes_ = np.array(card["classes"], dtype=object)
        model._restore(folder, _current_names(card["state"]))
        proba = model.predict_proba(["a first query"])
    except (ModelError, KeyboardInterrupt, SystemExit):
        raise
    except ModuleNotFoundError:  # the core alone is installed
        raise
    # Invalid arguments or state can raise anything; panics of tokenizers are no Exception.
    except BaseException as error:
        raise ModelError(f"{folder}: does not load ({error!r}). Save the model again") from error
    if not np.isfinite(proba).all():
        raise ModelError(f"{folder}: its probabilities are not finite. Fit the model again")
    if model.classes_.tolist() != card["classes"] or proba.shape != (1, len(model.classes_)):
        raise ModelError(f"{folder}: its classes do not fit its weights. Save the model again")
    return model, card


def _current_names(saved: Any) -> Any:
    """Return a part of ``model.json`` with the present names of renamed arguments."""
    if not isinstance(saved, dict):
        return saved
    return {
        _RENAMED_ARGUMENTS.get(name, name): _current_names(value) for name, value in saved.items()
    }
