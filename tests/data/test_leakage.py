from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.data.leakage import check_giveaways, check_stated_labels, find_leaks
from nivesh_lib.data.splits import mask_amounts, near_duplicate_pairs
from nivesh_lib.data.versions import load_dataset

INTENTS = ("tax_planning", "emergency_fund", "loan_inquiry", "goal_planning")


@pytest.fixture
def clean() -> pd.DataFrame:
    """400 rows of invented words that say nothing about their label."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(200)])
    return pd.DataFrame(
        {
            "id": [f"r{n}" for n in range(400)],
            "query": [" ".join(row) for row in words[rng.integers(0, 200, (400, 8))]],
            "intent": [INTENTS[n % 4] for n in range(400)],
            "fold": [n % 5 for n in range(400)],
            "source": "written",
        }
    )


def findings(frame: pd.DataFrame, **options: object) -> list[tuple[str, str, int]]:
    leaks = find_leaks(frame, **options)  # type: ignore[arg-type]
    return [(leak.check, leak.severity, len(leak.rows)) for leak in leaks]


def with_text(frame: pd.DataFrame, rows: pd.Series, text: str) -> pd.DataFrame:
    return frame.assign(query=frame["query"].where(~rows, frame["query"] + text))


def some(frame: pd.DataFrame, intent: str, n: int) -> pd.Series:
    own = frame["intent"] == intent
    return own & (own.cumsum() <= n)


def test_rows_without_a_leak_are_clean(clean):
    assert findings(clean) == []


@pytest.mark.parametrize(
    "ref",
    ["intents@1.0.0", "intents@1.1.0", "intents@1.2.0", "out_of_scope@1.0.0", "out_of_scope@1.1.0"],
)
def test_the_shipped_versions_are_clean(ref):
    data = load_dataset(ref)
    leaks = find_leaks(
        data.train.rename(columns={data.version.label_column: "intent"}),
        pairs=near_duplicate_pairs([mask_amounts(text) for text in data.train["query"]]),
        held_ids=data.manifest["holdout"],
        recorded=data.manifest["cross_split_duplicates"],
    )
    assert leaks == []


# --- rows on both sides ------------------------------------------------------------------------


def test_a_near_duplicate_in_another_fold_is_found(clean):
    copies = clean.head(5).assign(query=clean["query"] + "!", fold=clean["fold"] + 1)
    leaky = pd.concat([clean, copies.assign(id=list("abcde"))], ignore_index=True)
    pairs = near_duplicate_pairs(leaky["query"])
    assert findings(leaky, pairs=pairs) == [("fold_pairs", "error", 10)]
    leaky.loc[400:, "fold"] -= 1
    assert findings(leaky, pairs=pairs) == []


def test_a_pair_that_a_long_chain_left_behind_is_a_warning(clean):
    assert findings(clean, pairs=[(0, 1, 0.9)]) == [("fold_pairs", "warning", 2)]


def test_what_publishing_counted_across_the_split_is_reported(clean):
    assert findings(clean, recorded={"exact": 0, "near": 0}) == []
    assert findings(clean, recorded={"exact": 2, "near": 1}) == [
        ("split", "error", 0),
        ("split", "warning", 0),
    ]


def test_an_id_on_both_sides_or_in_two_folds_is_found(clean):
    assert findings(clean, held_ids=["r3", "h1"]) == [("ids", "error", 1)]
    clean.loc[7, "id"] = "r6"
    assert findings(clean) == [("ids", "error", 2)]


@pytest.mark.parametrize(
    "cell",
    ["augmented", "paraphrase of r1", "back-translated", "generated_from r7", "Augmented: x"],
)
@pytest.mark.parametrize("column", ["source", "selection"])
def test_augmented_rows_in_a_fold_are_found(clean, column, cell):
    leaky = clean.assign(selection="natural")
    leaky.loc[:2, column] = cell
    assert findings(leaky) == [("augmented", "error", 3)]
    leaky.loc[:2, "fold"] = -1  # trained on only
    assert findings(leaky) == []


@pytest.mark.parametrize("cell", ["written by language models", "CRM, made in 2025", None])
def test_other_sources_are_no_augmentation(clean, cell):
    assert findings(clean.assign(source=cell)) == []


# --- labels in the text ------------------------------------------------------------------------


@pytest.mark.parametrize("text", [" emergency_fund", " [EMERGENCY_FUND]", " intent=emergency_fund"])
def test_a_label_as_machines_write_it_is_found_in_few_rows(clean, text):
    leaky = with_text(clean, some(clean, "emergency_fund", 8), text)
    assert findings(leaky) == [("stated_label", "error", 8)]


@pytest.mark.parametrize(
    ("rows", "severity"), [(100, "error"), (95, "error"), (60, "warning"), (40, None)]
)
def test_a_label_in_words_is_judged_by_how_many_of_its_rows_contain_it(clean, rows, severity):
    leaky = with_text(clean, some(clean, "emergency_fund", rows), " for my emergency fund")
    stated = [leak for leak in findings(leaky) if leak[0] == "stated_label"]
    assert stated == ([("stated_label", severity, rows)] if severity else [])


def test_words_that_rows_of_all_labels_contain_are_no_leak(clean):
    assert findings(with_text(clean, clean["intent"] != "", " emergency fund")) == []


@pytest.mark.parametrize("name", ["emergencyFund", "emergency-fund", "Emergency fund"])
def test_labels_of_other_spellings_are_found_too(clean, name):
    frame = clean.replace("emergency_fund", name)
    leaky = with_text(frame, some(frame, name, 100), " (emergency fund)")
    assert ("stated_label", "error", 100) in findings(leaky)


@pytest.mark.parametrize("tag", ["#q7", "[TX]", "ref:77", "<a>", "src_9"])
def test_a_tag_that_decides_the_label_is_found_in_few_rows(clean, tag):
    leaky = with_text(clean, some(clean, "loan_inquiry", 12), f" {tag}")
    assert findings(leaky) == [("giveaway", "error", 12)]


@pytest.mark.parametrize(("rows", "severity"), [(100, "error"), (60, "warning"), (40, None)])
def test_a_plain_word_that_decides_the_label_is_judged_by_its_share(clean, rows, severity):
    leaky = with_text(clean, some(clean, "loan_inquiry", rows), " kw7731")
    assert findings(leaky) == ([("giveaway", severity, rows)] if severity else [])


def test_a_word_with_many_exceptions_decides_nothing(clean):
    leaky = with_text(clean, some(clean, "loan_inquiry", 100), " #q7")
    assert check_giveaways(with_text(leaky, some(clean, "tax_planning", 10), " #q7")) == []


def test_words_and_marks_at_random_raise_no_alarm():
    rng = np.random.default_rng(1)
    marks = np.array([f"#{n}" for n in range(30)])
    for _ in range(20):
        frame = pd.DataFrame(
            {
                "query": [" ".join(row) for row in marks[rng.integers(0, 30, (300, 2))]],
                "intent": rng.choice(["rare", "common"], 300, p=[0.02, 0.98]),
            }
        )
        assert check_giveaways(frame.assign(id=frame.index.astype(str))) == []


def test_cells_that_are_no_text_and_personal_data_do_no_harm(clean):
    leaky = with_text(clean, some(clean, "loan_inquiry", 100), " asha.rao@example.com")
    leaky.loc[:3, "query"] = None
    leaky.loc[4, "intent"] = None
    [leak] = find_leaks(leaky.drop(columns=["id", "fold", "source"]))
    assert leak.check == "giveaway" and "asha" not in leak.message


def test_thousands_of_labels_are_looked_for_in_their_own_rows_first():
    n = 4_000
    frame = pd.DataFrame(
        {"query": [f"rent {k}" for k in range(n)], "intent": map("l{}".format, range(n))}
    )
    began = time.process_time()
    assert check_stated_labels(frame) == []
    assert time.process_time() - began < 1.5  # all labels in all rows take several seconds
