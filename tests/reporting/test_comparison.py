from __future__ import annotations

import pytest

from nivesh_lib.reporting.comparison import comparison_of, evaluation_of


def test_models_alone_are_no_comparison():
    results = {"03": {"model": "tfidf", "folds": [{"fold": 0, "accuracy": 0.5}]}}
    assert evaluation_of(results) is None and comparison_of(results) is None


def test_the_comparison_brings_its_own_sentence(record):
    told = comparison_of({"06": record})
    assert told["sentence"].startswith("good is better than")
    assert "300 queries" in told["note"] and "1 pair of models" in told["note"]


def test_a_comparison_may_be_recorded_as_its_table(record):
    rows = [
        {"rank": "1=", "model": "good", "difference": None},
        {"rank": "1=", "model": "weak", "difference": -0.1, "difference_low": -0.2}
        | {"difference_high": 0.1, "p": 0.4},
    ]
    told = comparison_of({"06": {**record, "comparison": rows}})
    assert told["champion"] == "good" and told["sentence"] == "good cannot be told from weak."
    assert told["models"][1]["to_champion"]["differs"] is False


def test_each_model_is_held_to_the_champion_and_to_the_next_lower_score(record):
    first, last = comparison_of({"06": record})["models"]
    assert first["to_champion"] is None and last["to_next"] is None
    assert first["to_next"]["value"] == pytest.approx(-last["to_champion"]["value"])
    assert first["to_next"]["p_mcnemar"] < 0.001
