from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nivesh_lib.models.base import TextClassifier, get_model, prepare
from nivesh_lib.models.directory import MODELS

ROWS = [
    ("can i afford a 12 lakh car on my salary", "affordability_check"),
    ("is a flat in pune within my reach", "affordability_check"),
    ("kya main iphone afford kar sakta hoon", "affordability_check"),
    ("can we manage a foreign trip this year", "affordability_check"),
    ("what is the home loan interest rate at sbi", "loan_inquiry"),
    ("personal loan ke liye kitna emi lagega", "loan_inquiry"),
    ("am i eligible for a gold loan", "loan_inquiry"),
    ("prepay my education loan or wait", "loan_inquiry"),
    ("how do i save tax under 80c", "tax_planning"),
    ("old or new tax regime for 18 lakh", "tax_planning"),
    ("hra exemption when i pay rent to parents", "tax_planning"),
    ("tax kaise bachaye elss ya ppf", "tax_planning"),
]
TEXTS = [text for text, _ in ROWS]
LABELS = [label for _, label in ROWS]
QUERIES = ["should i take a car loan", "80c ki limit kya hai", "₹50L ka ghar?", "good morning"]

# Arguments that keep a slow model fast on twelve rows; the others run as they come.
_FEW_STEPS = {"epochs": 30, "batch_size": 4, "learning_rate": 5e-3}
SMALL: dict[str, dict[str, object]] = {
    "lstm": {**_FEW_STEPS, "hidden": 16, "dropout": 0.0, "word_dropout": 0.0},
    "embedding": {"C": 1000.0},
    "transformer": {**_FEW_STEPS, "head_learning_rate": 5e-3},
    "static": {"buckets": 4096},
}
NEURAL = sorted(SMALL)


def logit_gap(model, other, texts):
    """The largest difference of a logit between two models."""
    one, two = (each._logits([prepare(text) for text in texts]) for each in (model, other))
    return abs(one - two).max()


@functools.cache
def tiny(architecture: str = "bert") -> str:
    """Return the folder of a saved encoder with two small layers and random weights."""
    folder = Path(tempfile.mkdtemp(prefix=f"tiny-{architecture}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    save_tiny(architecture, folder)
    return str(folder)


def save_tiny(architecture: str, folder: Path) -> None:
    """Write a checkpoint of a family's own shape, in the hub's format."""
    import torch
    from transformers import (
        BertConfig,
        BertModel,
        BertTokenizer,
        DistilBertConfig,
        DistilBertModel,
    )

    letters = "abcdefghijklmnopqrstuvwxyz0123456789₹?"
    words = sorted({word for text in TEXTS for word in text.split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if architecture == "bert":
            shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
            heads = {"num_attention_heads": 2, "max_position_embeddings": 128}
            model = BertModel(BertConfig(vocab_size=len(vocabulary), **shape, **heads))
        else:
            shape = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}
            sizes = {"vocab_size": len(vocabulary), "max_position_embeddings": 128}
            model = DistilBertModel(DistilBertConfig(**shape, **sizes))
    model.save_pretrained(folder)
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)


def small_model(kind: str) -> TextClassifier:
    if kind == "onnx":
        return get_model(kind, model=small_model("transformer"))
    if kind == "ensemble":
        return get_model(kind, members={"tfidf": {}, "embedding": {"backbone": tiny()}})
    if kind == "calibrated":
        return get_model(kind, model=get_model("tfidf"), temperature=0.5)
    if kind == "abstaining":
        return get_model(kind, model=get_model("tfidf"), threshold=0.5, backbone=tiny())
    if kind == "cascade":
        teacher = get_model("embedding", C=1000.0, backbone=tiny())
        return get_model(kind, student=get_model("tfidf"), teacher=teacher, threshold=0.6)
    given = SMALL.get(kind, {})
    return get_model(kind, **given | ({"backbone": tiny()} if kind in SMALL else {}))


def described(params: dict[str, object]) -> dict[str, object]:
    """Return arguments that can be compared: a model among them becomes kind and arguments."""
    return {
        name: (value.kind, value.get_params()) if isinstance(value, TextClassifier) else value
        for name, value in params.items()
    }


@pytest.fixture(scope="session", params=sorted(MODELS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def fitted(kind: str) -> TextClassifier:
    """A fitted model of each kind; tests only ask it."""
    return small_model(kind).fit(TEXTS, LABELS)


@pytest.fixture
def saved(fitted: TextClassifier, tmp_path: Path) -> Path:
    return fitted.save(tmp_path / "model")


@pytest.fixture
def write_rules(tmp_path: Path) -> Callable[[str], str]:
    def write(toml: str) -> str:
        path = tmp_path / "rules.toml"
        path.write_text(toml, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the model hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"
