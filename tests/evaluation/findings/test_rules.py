from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.findings.rules import coverage, rules_per_label
from nivesh_lib.reporting.figures import figure_of

LABELS = ("tax_planning", "loan, EMI")


def rule(label, pattern="x", weight=1.0):
    return {"label": label, "pattern": pattern, "weight": weight}


@pytest.mark.parametrize(
    ("labels", "claim"),
    [
        (LABELS, "2 rules were written by hand, 1 for each label."),
        (LABELS[:1] * 3, "3 rules were written by hand, 0 to 3 for each label."),
        ((), "0 rules were written by hand, 0 for each label."),
    ],
)
def test_rules_are_counted_for_each_label(labels, claim):
    found = rules_per_label([rule(label) for label in labels], LABELS)
    assert found.claim == claim
    assert found.table["label"].tolist() == ["tax planning", "loan, EMI"]


def test_the_heaviest_rule_is_shown_and_a_long_one_is_cut():
    rules = [rule(LABELS[0], "light"), rule(LABELS[0], "heavy" * 40, 3.0)]
    found = rules_per_label(rules, LABELS, mined=True)
    assert found.table["heaviest"].str.len().tolist() == [60, 0]
    assert found.claim.startswith("2 rules were mined from the training rows")


def test_rules_have_a_figure_with_the_claim_as_title():
    found = rules_per_label([rule(LABELS[0])], LABELS)
    assert figure_of(found).axes[0].get_title(loc="left") == found.title


@pytest.mark.parametrize(
    ("matched", "claim"),
    [
        (50, "A rule matches 50 of 100 queries (40 to 60); where a rule matches, 80 of 100 answers "
             "(67 to 89) are right; where no rule matches, 0 of 100 answers (0 to 7) are right."),
        (100, "A rule matches 100 of 100 queries (96 to 100); where a rule matches, 40 of 100 "
              "answers (31 to 50) are right."),
        (0, "A rule matches 0 of 100 queries (0 to 4); where no rule matches, 40 of 100 answers "
            "(31 to 50) are right."),
    ],
)  # fmt: skip
def test_answers_with_and_without_a_match_are_told_apart(matched, claim):
    predicted = [LABELS[0]] * 40 + [LABELS[1]] * 60
    rows = pd.DataFrame({"intent": LABELS[0], "predicted": predicted})
    found = coverage(rows, np.arange(100) < matched)
    assert found.claim == claim and found.estimate.value == matched / 100
    assert figure_of(found).axes[0].get_title(loc="left").replace("\n", " ") == found.title


def test_very_few_answers_are_not_said_of_a_hundred():
    rows = pd.DataFrame({"intent": LABELS[0], "predicted": [LABELS[1]] * 3 + [LABELS[0]] * 37})
    claim = coverage(rows, np.arange(40) >= 3).claim
    assert "where no rule matches, 0 of 3 answers (0 to 56 of 100) are right" in claim


@pytest.mark.parametrize("mined", [True, False])
def test_mined_rules_come_with_their_caveat(mined):
    rows = pd.DataFrame({"intent": ["a"], "predicted": ["a"]})
    assert bool(coverage(rows, np.array([True]), mined=mined).caveats) == mined
