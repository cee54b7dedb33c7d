from __future__ import annotations

import pandas as pd
import pytest

from nivesh_lib.evaluation.findings.training import learning_curves, spellings, word_order
from nivesh_lib.reporting.figures import figure_of

ODD = "tax, and_fees"


def epochs(*watched: float, train: float = 1.0) -> list[dict[str, float]]:
    return [
        {"epoch": float(n), "train_loss": train, "validation_loss": loss}
        for n, loss in enumerate(watched, start=1)
    ]


# --- learning curves -------------------------------------------------------------


@pytest.mark.parametrize(
    ("watched", "limit", "claim"),
    [
        ((3, 2, 1), 3, "Best at the last of 3 epochs: the limit may have stopped it."),
        ((3, 2, 1), None, "Best at the last of 3 epochs."),
        ((3, 2, 1), 9, "Best at the last of 3 epochs."),
        ((3,), 1, "Best at its only epoch: the limit may have stopped it."),
        ((3, 1, 2), 3, "Best at epoch 2: the epoch after it did not lower the loss on the watched"),
        ((1, 3, 1, 2), 4, "Best at epoch 1: the 3 epochs after it did not lower the loss"),
    ],
)
def test_the_best_epoch_is_said_as_it_is_also_where_it_is_the_last(watched, limit, claim):
    found = learning_curves(epochs(*watched), limit=limit)
    assert found.claim.startswith(claim)
    assert figure_of(found).axes[0].get_title(loc="left").replace("\n", " ") == found.title


@pytest.mark.parametrize(
    ("losses", "claim"),
    [
        ((2.0, 1.0, 0.9), "went from 2.00 to 0.90 in 3 epochs; the last one lowered it by 10.0 %."),
        ((1.0, 2.0), "went from 1.00 to 2.00 in 2 epochs; the last one did not lower it."),
        ((1.5,), "After one epoch the loss on the training rows is 1.50."),
    ],
)
def test_without_watched_rows_the_training_loss_is_said_with_a_caveat(losses, claim):
    history = [{"epoch": n, "train_loss": loss} for n, loss in enumerate(losses, start=1)]
    found = learning_curves(history, limit=len(losses))
    assert claim in found.claim and "No rows were watched" in found.caveats[0]


def test_a_model_without_a_record_of_its_training_has_no_curves():
    found = learning_curves([])
    assert found.claim == "The model keeps no record of its training." and found.plot is None


# --- word order ------------------------------------------------------------------


def shuffled(won: int, lost: int, same: int = 80) -> pd.DataFrame:
    """Return rows of which shuffling makes ``lost`` wrong and ``won`` right."""
    before = ["tax"] * lost + [ODD] * won + ["tax"] * same
    after = [ODD] * lost + ["tax"] * won + ["tax"] * same
    texts = {"query": "my tax", "asked": "tax my"}
    return pd.DataFrame({"intent": "tax", "predicted": before, "answer": after, **texts})


@pytest.mark.parametrize(
    ("won", "lost", "verdict", "claim"),
    [
        (0, 20, "met", "The answers of the LSTM rest on word order: as written, 100 of 100"),
        (20, 0, "not met", "The LSTM is right more often on shuffled words than on queries: as"),
        (
            3,
            5,
            "undecided",
            "Whether the answers of the LSTM rest on word order, these rows cannot",
        ),
        (
            0,
            0,
            "undecided",
            "Whether the answers of the LSTM rest on word order, these rows cannot",
        ),
    ],
)
def test_word_order_is_judged_by_its_interval(won, lost, verdict, claim):
    found = word_order("lstm", shuffled(won, lost))
    assert found.verdict == verdict and found.claim.startswith(claim)
    low, high = found.estimate.low, found.estimate.high
    assert "helps" not in found.claim + found.mark
    assert verdict == ("met" if low > 0 else "not met" if high < 0 else "undecided")


def test_the_examples_of_word_order_show_both_texts_and_no_personal_data():
    rows = shuffled(0, 20)
    (example, _) = word_order("lstm", rows).examples
    assert (example.query, example.note) == ("my tax", "tax; as “tax my” taken for tax, and fees")
    assert not word_order("lstm", rows.assign(query="call 98765 43210")).examples


def test_without_shuffled_queries_word_order_is_not_judged():
    found = word_order("lstm", shuffled(0, 0, same=0))
    assert "not judged" in found.claim and not found.verdict and found.plot is None


# --- other spellings -------------------------------------------------------------


def views(**differences: tuple[float, float, float]) -> pd.DataFrame:
    columns = ["difference", "difference_low", "difference_high"]
    return pd.DataFrame(
        [
            {"view": name, "rows": 100, **dict(zip(columns, ends, strict=True))}
            for name, ends in differences.items()
        ]
    )


LOSS, WORSE, GAIN = (-0.04, -0.07, -0.01), (-0.09, -0.12, -0.05), (0.04, 0.01, 0.07)
OPEN = (-0.06, -0.13, 0.01)


@pytest.mark.parametrize(
    ("rows", "claim"),
    [
        ({"typos": LOSS, "upper_case": OPEN}, "loses right answers by more than chance to typos: "),
        ({"a": LOSS, "b_c": WORSE}, "by more than chance to a and b c, most to b c: -9.0"),
        ({"typos": OPEN, "b": GAIN}, "these rows cannot tell; the least favourable is typos, -6.0"),
        ({"typos": GAIN}, "these rows cannot tell; the least favourable is typos, +4.0"),
    ],
)
def test_only_spellings_that_surely_cost_answers_are_said_to(rows, claim):
    found = spellings("lstm", views(**rows))
    assert claim in found.claim and "LSTM" in found.claim
    assert found.caveats and len(found.table) == len(rows)


def test_where_no_other_spelling_was_asked_one_line_says_so():
    assert spellings("lstm", views()).claim == "No query was asked in another spelling."
