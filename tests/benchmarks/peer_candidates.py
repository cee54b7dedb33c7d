"""What `make bench-peers` compares: our models and their peers, each a recipe of one call.

Peers get the encoder that ours has, and the settings that their own documentation or the platform's
guide gives. What they need beyond the project is the extra ``bench``.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nivesh_lib.models.base import get_model
from nivesh_lib.models.directory import MODELS
from nivesh_lib.models.neural.backbones import find_backbone
from nivesh_lib.models.neural.transformer import PRESETS
from nivesh_lib.models.wrappers.ensemble import DEFAULT_MEMBERS

OURS = ("tfidf", "lstm", "embedding", "transformer", "ensemble")
# The settings of the guide's fine-tuning script.
GUIDE = {"epochs": 3, "batch_size": 16, "learning_rate": 2e-5, "weight_decay": 0.01}
SETFIT_STEPS = 500  # at most, of 16 pairs; all pairs of ten thousand rows are millions of steps
MAX_LENGTH = 128
SEED = 42


@dataclass(frozen=True)
class Candidate:
    """A recipe: ``fit(texts, labels)`` returns an object with ``predict`` and ``save``.

    ``fine_tuned`` says that an epoch is one pass of the whole encoder over the rows, so that its
    time can be compared. ``large`` is false for what takes too long on a large dataset.
    """

    name: str
    about: str
    learn: Callable[..., Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    fine_tuned: bool = False
    default: bool = True
    large: bool = True

    @property
    def epochs(self) -> int:
        """Passes over the rows; 0 where there are none, or none to count."""
        return int(self.params.get("epochs", 0))

    @property
    def sha256(self) -> str:
        """Return the hash of name and parameters."""
        content = json.dumps([self.name, dict(self.params)], sort_keys=True, default=repr)
        return hashlib.sha256(content.encode()).hexdigest()

    def fit(self, texts: Sequence[str], labels: Sequence[str]) -> Any:
        return self.learn(list(texts), list(labels), **self.params)

    def shortest(self) -> Candidate:
        """Return the recipe cut down to one epoch, or a few steps, where it has them."""
        least = {"epochs": 1, "max_steps": 2}
        cut = {name: n for name, n in least.items() if name in self.params}
        return replace(self, params={**self.params, **cut})

    def missing(self) -> list[str]:
        """Return the packages that it needs and that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def candidates() -> dict[str, Candidate]:
    """Return every recipe by name: ours, then the peers."""
    return {one.name: one for one in (*_ours(), *_peers())}


def _ours() -> list[Candidate]:
    found = [
        Candidate(
            name=kind,
            about="ours, default parameters",
            learn=functools.partial(_learn_ours, kind),
            params=_params(kind),
            fine_tuned=kind == "transformer",
        )
        for kind in OURS
        if kind in MODELS
    ]
    seed = get_model("transformer", **PRESETS["seed"]).get_params(deep=False)
    return [
        *found,
        Candidate(
            name="transformer-seed",
            about="ours, preset seed: the guide's settings in our training loop",
            learn=functools.partial(_learn_ours, "transformer"),
            params=seed,
            fine_tuned=True,
            default=False,
        ),
    ]


def _params(kind: str) -> dict[str, Any]:
    """Return a model's default parameters, members' too: the recipe's hash covers all of them."""
    model = get_model(kind)
    params = model.get_params(deep=False)
    if kind == "ensemble":
        params["members"] = {
            member: get_model(member).get_params(deep=False) for member in DEFAULT_MEMBERS
        }
    return params


def _peers() -> list[Candidate]:
    trainer = {**GUIDE, "max_length": MAX_LENGTH, "backbone": "minilm"}
    return [
        Candidate("svm", "scikit-learn: TfidfVectorizer(1, 2) and LinearSVC", _learn_svm),
        Candidate(
            "setfit",
            f"SetFit, its defaults, at most {SETFIT_STEPS} steps (max_steps)",
            _learn_setfit,
            {"max_steps": SETFIT_STEPS, "backbone": "minilm"},
            needs=("setfit", "datasets"),
        ),
        Candidate(
            "trainer-padded",
            "Hugging Face Trainer, the guide's settings, padding to max_length",
            _learn_trainer,
            {**trainer, "padding": "max_length"},
            needs=("accelerate",),
            fine_tuned=True,
            large=False,
        ),
        Candidate(
            "trainer-dynamic",
            "Hugging Face Trainer, the guide's settings, padding to the longest of a batch",
            _learn_trainer,
            {**trainer, "padding": "longest"},
            needs=("accelerate",),
            fine_tuned=True,
        ),
    ]


def _learn_ours(kind: str, texts: list[str], labels: list[str], **params: Any) -> Any:
    return get_model(kind, **params).fit(texts, labels)


class _Pipeline:
    """A scikit-learn pipeline, with ``save``."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def predict(self, texts: list[str]) -> list[str]:
        return self._pipeline.predict(texts).tolist()

    def save(self, folder: Path) -> None:
        import joblib

        folder.mkdir()
        joblib.dump(self._pipeline, folder / "pipeline.joblib")


def _learn_svm(texts: list[str], labels: list[str]) -> _Pipeline:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    steps = TfidfVectorizer(ngram_range=(1, 2)), LinearSVC(random_state=SEED)
    return _Pipeline(make_pipeline(*steps).fit(texts, labels))


class _SetFit:
    """A trained SetFit model; it knows classes by number."""

    def __init__(self, model: Any, classes: list[str]) -> None:
        self._model, self._classes = model, classes

    def predict(self, texts: list[str]) -> list[str]:
        numbers = self._model.predict(texts, show_progress_bar=False, use_labels=False)
        return [self._classes[int(number)] for number in numbers]

    def save(self, folder: Path) -> None:
        self._model.save_pretrained(str(folder))


def _learn_setfit(texts: list[str], labels: list[str], *, max_steps: int, backbone: str) -> _SetFit:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    classes, numbers = _numbered(labels)
    model = SetFitModel.from_pretrained(str(find_backbone(backbone)), labels=classes)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=max_steps if setfit_steps(labels) > max_steps else -1,
            save_strategy="no",
            report_to="none",
            show_progress_bar=False,
            seed=SEED,
        )
        rows = Dataset.from_dict({"text": texts, "label": numbers})
        Trainer(model=model, args=arguments, train_dataset=rows).train()
    return _SetFit(model, classes)


def setfit_steps(labels: list[str], batch_size: int = 16) -> int:
    """Return the steps of SetFit's own epoch: as many like pairs as unlike ones, none left out."""
    counts = Counter(labels)
    like = sum(n * (n + 1) // 2 for n in counts.values())  # a row with itself is one
    every = len(labels) * (len(labels) + 1) // 2
    return math.ceil(2 * max(like, every - like) / batch_size)


class _Trained:
    """A model that Hugging Face's Trainer trained, with its tokenizer."""

    def __init__(self, trainer: Any, encode: Callable[..., Any], classes: list[str]) -> None:
        self._trainer, self._encode, self._classes = trainer, encode, classes

    def predict(self, texts: list[str]) -> list[str]:
        logits = self._trainer.predict(self._encode(texts)).predictions
        return [self._classes[number] for number in logits.argmax(axis=1)]

    def save(self, folder: Path) -> None:
        self._trainer.model.save_pretrained(folder)
        self._trainer.processing_class.save_pretrained(folder)


def _learn_trainer(
    texts: list[str],
    labels: list[str],
    *,
    padding: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    max_length: int,
    backbone: str,
) -> _Trained:
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(SEED)  # of the new head, which is there before Trainer sets its own
    classes, numbers = _numbered(labels)
    folder = find_backbone(backbone)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(classes), dtype="float32"
    )
    whole = "max_length" if padding == "max_length" else False

    def encode(texts: list[str], numbers: list[int] | None = None) -> list[dict[str, Any]]:
        columns = dict(tokenizer(texts, truncation=True, max_length=max_length, padding=whole))
        if numbers is not None:
            columns["labels"] = numbers
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    arguments = TrainingArguments(
        # Nothing is saved there.
        output_dir=str(Path(tempfile.gettempdir()) / "bench-peers-unused"),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=64,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=encode(texts, numbers),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    return _Trained(trainer, encode, classes)


def _numbered(labels: list[str]) -> tuple[list[str], list[int]]:
    classes = sorted(set(labels))
    number_of = {label: number for number, label in enumerate(classes)}
    return classes, [number_of[label] for label in labels]
