from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

LABELS = ("tax_planning", "loan_inquiry", "goal_planning")
SYLLABLES = ("ka", "ri", "mo", "tel", "dun", "ba", "shi", "vor", "en", "gul", "pim", "ozo", "tra")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def make_rows() -> Callable[..., pd.DataFrame]:
    """Rows whose texts are made of invented words, so that none is near another."""

    def make(n: int, seed: int = 0, labels: tuple[str, ...] = LABELS, **columns) -> pd.DataFrame:
        rng = random.Random(seed)
        texts = [" ".join("".join(rng.choices(SYLLABLES, k=3)) for _ in range(6)) for _ in range(n)]
        intents = [labels[i % len(labels)] for i in range(n)]
        return pd.DataFrame({"query": texts, "intent": intents, **columns})

    return make
