from __future__ import annotations

import pytest

from nivesh_lib.reporting.cards import data_card

MANIFEST = {
    "name": "intents",
    "version": "1.1.0",
    "created": "2026-01-25",
    "description": "Queries of savers.",
    "rows": 1500,
    "holdout": ["r1", "r2"],
    "parent": "1.0.0",
    "cross_split_duplicates": {"exact": 0, "near": 3},
    "sources": ["written", "production"],
    "licence": "CC0-1.0",
}
STATS = {
    "label_distribution": {"tax": 40, "loan": 90, "goal": 60},
    "min_query_length": 1,
    "max_query_length": 31,
    "avg_query_length": 7.25,
}
LEAST = {key: MANIFEST[key] for key in ("name", "version", "created", "rows")}


def test_a_data_card_tells_what_a_reader_must_know():
    assert data_card(MANIFEST, STATS) == {
        "Dataset": "intents 1.1.0, made 2026-01-25",
        "What it is": "Queries of savers.",
        "Rows": "1,500 in all, 2 held out and not seen here",
        "Labels": "3; rarest tax (40 training rows), most frequent loan (90)",
        "Words in a query": "1 to 31, 7.2 on average",
        "Parent version": "1.0.0",
        "Duplicates across the split": "0 exact, 3 near",
        "Sources": "written, production",
        "Licence": "CC0-1.0",
    }


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("Rows", "1,500 in all, 0 held out and not seen here"),
        ("Parent version", "none"),
        ("Sources", "not stated"),
        ("Licence", "not stated"),
    ],
)
def test_a_card_says_what_is_not_known(line, text):
    assert data_card(LEAST, STATS)[line] == text


def test_a_card_leaves_an_empty_description_out():
    assert "What it is" not in data_card(LEAST, STATS)
