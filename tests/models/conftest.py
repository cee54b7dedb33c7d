from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nivesh_lib.models.base import MODELS, TextClassifier, get_model

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
SMALL: dict[str, dict[str, object]] = {}


def small_model(kind: str) -> TextClassifier:
    return get_model(kind, **SMALL.get(kind, {}))


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
