from __future__ import annotations

import re
from itertools import chain, repeat
from pathlib import Path

import pandas as pd
import pytest

import nivesh_lib
from nivesh_lib.data.validation import IMBALANCE, NEAR_SHARE, validate_intent_data
from nivesh_lib.evaluation.findings import data
from nivesh_lib.reporting.figures import figure_of

LABELS = ("tax_planning", "loan, EMI")
FRAME = pd.DataFrame(
    {
        "id": ["a", "b", "c"],
        "query": ["save tax", "call 98200 12345 about my loan", "a loan"],
        "intent": ["tax_planning", "loan, EMI", "loan, EMI"],
    }
)


def checked(*issues, near=0, counts=(200, 100), rows=300):
    """Return the outcome of a validation with (check, severity, message, ids) as issues."""
    names = ("check", "severity", "message", "rows")
    return {
        "valid": not any(issue[1] == "error" for issue in issues),
        "checks": [dict(zip(names, (*issue, []), strict=False)) for issue in issues],
        "stats": {
            "rows": rows,
            "label_distribution": dict(zip(LABELS, counts, strict=False)),
            "imbalance_ratio": max(counts) / min(counts),
            "near_duplicates": {"rows": near, "share": near / rows},
        },
    }


def judged(*issues, **options):
    return data.check_findings(checked(*issues, **options), FRAME, LABELS)


def overall(*issues, **options):
    outcome = checked(*issues, **options)
    found = data.check_findings(outcome, FRAME, LABELS)
    return data.fit_to_train("my_data@1.0.0", outcome, found)


# --- the checks ----------------------------------------------------------------------------------


def test_every_check_of_the_library_is_judged_by_one_mark():
    folder = Path(nivesh_lib.__file__).parent / "data"
    sources = (folder / "validation.py").read_text() + (folder / "leakage.py").read_text()
    names = set(re.findall(r'(?:Issue|\.issue)\(\s*"(\w+)"', sources)) - {"length_shift"}
    of_marks = list(chain(*(check.checks for check in data._CHECKS.values())))
    assert sorted(of_marks) == sorted(names) and list(data.MARKS) == list(data._CHECKS)


def test_the_words_of_the_marks_are_the_limits_of_the_checks():
    assert "ten times" in data.MARKS["balance"] and IMBALANCE == 10
    assert "one row in a hundred" in data.MARKS["near_duplicates"] and NEAR_SHARE == 0.01


def test_marks_that_nothing_objects_to_are_met():
    assert {name: one.verdict for name, one in judged().items()} == dict.fromkeys(data.MARKS, "met")


@pytest.mark.parametrize(
    ("check", "severity", "mark", "verdict"),
    [
        ("cells", "error", "cells", "not met"),
        ("conflicts", "error", "duplicates", "not met"),
        ("near_duplicates", "warning", "near_duplicates", "not met"),
        ("fold_pairs", "error", "both_sides", "not met"),
        ("split", "warning", "both_sides", "undecided"),
        ("giveaway", "error", "giveaways", "not met"),
        ("stated_label", "warning", "giveaways", "undecided"),
        ("personal_data", "error", "personal_data", "not met"),
    ],
)
def test_a_mark_is_judged_by_its_checks_alone(check, severity, mark, verdict):
    found = judged((check, severity, "Found 3 rows"), near=9 * (check == "near_duplicates"))
    assert {name: one.verdict for name, one in found.items() if one.verdict != "met"} == {
        mark: verdict
    }
    assert ("these rows cannot tell" in found[mark].claim) == (verdict == "undecided")


def test_an_error_outweighs_a_warning_and_further_messages_are_counted():
    issues = [("giveaway", "warning", "First"), ("stated_label", "error", "Second")]
    found = judged(*issues)["giveaways"]
    assert (found.verdict, len(found.cells)) == ("not met", 2)
    assert found.claim == "First, and 1 more that the table lists."


@pytest.mark.parametrize(
    ("near", "claim"),
    [
        (0, "None of 300 rows nearly repeats another."),
        (1, "1 of 300 rows (0.3 %) nearly repeats another."),
        (3, "3 of 300 rows (1.0 %) nearly repeat another."),
    ],
)
def test_near_duplicates_are_counted(near, claim):
    assert judged(near=near)["near_duplicates"].claim == claim


@pytest.mark.parametrize(
    ("counts", "verdict"), [((100, 10), "met"), ((101, 10), "not met"), ((50, 0), "not met")]
)
def test_balance_is_judged_at_ten_times_as_the_validation_does(counts, verdict):
    labels = [*repeat("tax_planning", counts[0]), *repeat("loan, EMI", counts[1])]
    texts = [f"query {n} {n * 7919}" for n in range(len(labels))]
    frame = pd.DataFrame({"id": texts, "query": texts, "intent": labels})
    found = data.check_findings(validate_intent_data(frame), frame, LABELS)["balance"]
    assert found.verdict == verdict
    assert ("one label only" in found.claim) == (counts[1] == 0)


def test_balance_shows_every_label_by_its_id_and_names_those_without_rows():
    found = judged(counts=(30,))["balance"]
    assert found.table["training rows"].tolist() == [30, 0]
    assert found.caveats == ["No training row has the label “loan, EMI”."]
    figure_of(found)


def test_each_label_is_shown_with_a_query_of_common_length_that_was_not_picked_as_hard():
    found = data.check_findings(checked(), FRAME, LABELS)["balance"]
    assert found.table["for example"].tolist() == ["save tax", "a loan"]
    frame = FRAME.assign(selection=["hard", "natural", "hard"])
    tax, loan = data.check_findings(checked(), frame, LABELS)["balance"].table["for example"]
    assert tax == "save tax" and loan.startswith("call ") and "98200" not in loan


def test_the_claim_on_both_sides_says_all_that_its_mark_does():
    found = judged()["both_sides"]
    assert found.claim == "Equal or nearly equal texts on both sides: none among 300 rows."
    assert "none that nearly repeats it" in found.mark


def test_labels_of_the_same_size_have_no_rarest():
    claim = judged(counts=(9, 9), rows=18)["balance"].claim
    assert claim == "Each of 2 labels has 9 training rows."


def test_labels_in_messages_have_their_display_names():
    found = judged(("stated_label", "error", "Found 3 of 9 rows of tax_planning that say it"))
    assert found["giveaways"].claim == "Found 3 of 9 rows of tax planning that say it."


def test_rows_that_a_check_objects_to_are_shown_without_personal_data():
    twice = pd.concat([FRAME, FRAME])  # ids may repeat: that is what a check looks for
    found = data.check_findings(checked(("ids", "error", "Two", ["b", "b"])), twice, LABELS)
    (first, _) = found["both_sides"].examples
    assert first.note == "loan, EMI" and "98200" not in first.query


@pytest.mark.parametrize(
    ("issues", "verdict", "claim"),
    [
        ([], "met", "My data 1.0.0 is fit to train on: all 7 checks pass."),
        (
            [("split", "warning", "x")],
            "undecided",
            "My data 1.0.0 can be used with care: 6 of 7 checks pass; look at equal or nearly "
            "equal texts on both sides.",
        ),
        (
            [("split", "warning", "x"), ("cells", "error", "y")],
            "not met",
            "My data 1.0.0 should go back: 5 of 7 checks pass; look at missing cells and equal or "
            "nearly equal texts on both sides.",
        ),
    ],
)
def test_a_version_is_judged_by_all_checks_together(issues, verdict, claim):
    found = overall(*issues)
    assert (found.verdict, found.claim) == (verdict, claim)
    assert sum(found.table["verdict"] == "met") == 7 - len(issues)


def test_everything_that_was_found_is_in_the_table_of_the_version():
    issues = [("giveaway", "error", f"Word {n}") for n in range(3)]
    table = overall(*issues).table
    assert table.loc[table["check"] == "labels given away", "found"].tolist() == [
        "Word 0",
        "Word 1",
        "Word 2",
    ]


def test_near_duplicates_alone_ask_for_care_and_do_not_send_a_version_back():
    found = overall(("near_duplicates", "warning", "x"), near=9)
    assert found.verdict == "undecided" and "with care" in found.claim


# --- what the rows are like ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "claim"),
    [
        ({}, "The data has texts and labels only, so scores cannot be sliced by anything else."),
        ({"language": ["en"] * 3}, "1 of 6 optional columns are complete."),
        (
            {"language": ["en"] * 3, "income_segment": ["x", None, "y"]},
            "1 of 6 optional columns are complete; income segment is filled in for 67 % of the "
            "rows.",
        ),
    ],
)
def test_optional_columns_are_counted(columns, claim):
    assert data.completeness(FRAME.assign(**columns)).claim == claim


def test_lengths_are_shown_for_each_selection_the_largest_first():
    found = data.lengths(FRAME.assign(selection=["odd_ones", "hard", "hard"]))
    assert found.claim == (
        "Half of the queries have 2 words or fewer (hard rows 4, odd ones rows 2), and the "
        "longest has 6."
    )
    figure_of(found)


def test_one_selection_is_not_told_apart():
    claim = "Half of the queries have 2 words or fewer, and the longest has 6."
    assert data.lengths(FRAME.assign(selection="hard")).claim == claim


CHANGES = {
    "old": "my_data@1.0.0",
    "new": "my_data@1.1.0",
    "added": 50,
    "removed": 0,
    "relabelled": [],
    "reworded": [],
    "labels": {"tax_planning": [50, 50], "loan, EMI": [50, 100]},
    "mean_words": [9.0, 12.0],
    "length_shift": {"statistic": 0.2, "p": 0.001},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "adds 50 rows to my data 1.0.0 and changes none of them; “loan, EMI” grew most"),
        ({}, "from 50 % to 67 % of the rows"),
        ({}, "queries are longer (12.0 words on average, 9.0 before)"),
        ({"mean_words": [9.0, 8.0]}, "queries are shorter (8.0"),
        ({"mean_words": [9.04, 9.01]}, "queries are of other lengths (9.0 words on average, as"),
        ({"length_shift": {"p": 0.01}}, "longer or shorter, these rows cannot tell"),
        ({"removed": 2}, "removes 2 and edits 0"),
        ({"relabelled": [{"id": "a"}], "reworded": ["a", "b"]}, "removes 0 and edits 2"),
    ],
)
def test_a_version_is_compared_with_its_parent(changes, said):
    found = data.against_parent(CHANGES | changes)
    assert said in found.claim and found.title in figure_of(found).axes[0].get_title(
        loc="left"
    ).replace("\n", " ")


def test_a_first_version_is_compared_with_none():
    found = data.against_parent(None)
    assert "first version" in found.claim and found.plot is None


@pytest.mark.parametrize(
    ("dates", "claim", "months"),
    [
        (["2026-01-05T10:30Z", "2026-03-01", None],
         "The rows are from January 2026 to March 2026, 0 to 1 a month.", 3),
        (["2026-01-05", "2026-01-31 10:00", "2026-01-31"],
         "All dated rows are from January 2026.", 1),
    ],
)  # fmt: skip
def test_rows_are_counted_by_month_empty_ones_too(dates, claim, months):
    found = data.dates(FRAME.assign(created_at=dates))
    assert found.claim == claim and len(found.plot.data["counts"]) == months
    figure_of(found)


@pytest.mark.parametrize("columns", [{}, {"created_at": None}])
def test_data_without_dates_says_so(columns):
    assert data.dates(FRAME.assign(**columns)).claim.startswith("The data has no dates")


def asked(**labels_of):
    rows = [(label, kind) for kind, labels in labels_of.items() for label in labels]
    return pd.DataFrame(rows, columns=["intent", "income_segment"])


ONES = ["tax_planning"] * 40 + ["loan, EMI"] * 10


def test_segments_that_ask_for_other_things_are_named_with_the_widest_gap():
    found = data.segments(asked(urban_low=ONES, student=["loan, EMI", "gift"] * 25))
    assert found.claim == (
        "Segments ask for different things: tax planning is 80 of 100 queries in the segment "
        "urban low, and 0 of 100 in the segment student."
    )
    assert set(found.table) == {"label", "urban low", "student"}
    figure_of(found)


def test_segments_that_ask_for_the_same_are_not_called_equal():
    claim = data.segments(asked(a=ONES, b=ONES, tiny=["gift"])).claim
    assert claim.startswith("Whether segments ask for different things, these rows cannot tell")
    assert "tiny" not in claim


@pytest.mark.parametrize(
    ("frame", "claim"),
    [
        (FRAME, "The data has no segments, so it cannot be sliced by them."),
        (asked(a=ONES, b=ONES[:19]), "No two segments have 20 rows to compare."),
        (asked(a=["x"] * 30, b=["x"] * 30), "No two segments have 20 rows to compare."),
    ],
)
def test_without_segments_to_compare_one_line_says_so(frame, claim):
    found = data.segments(frame)
    assert (found.claim, found.plot, found.verdict) == (claim, None, "")
