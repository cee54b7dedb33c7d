"""Gates by interval, not reachable marks with the rows they need, and the release in place."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from nivesh_lib.errors import DataError
from nivesh_lib.evaluation.intervals import wilson
from nivesh_lib.releases.gates import Evidence, judged
from tests.releases.records import answers, release, scored

MARKS = """
[intent_classifier]
accuracy_target = 0.99
latency_target_ms = 100

[intent_classifier.staging]
accuracy = 0.80
macro_f1 = 0.75
calibration_error = 0.10
size_mb = 5
accuracy_loss = 0.05
slice_loss = 0.20

[intent_classifier.production]
hours_in_staging = 24
"""


@pytest.fixture(autouse=True)
def _objectives(home):
    (home / "data").mkdir()
    (home / "data" / "objectives.toml").write_text(MARKS)


def gates(stage="staging", *, metrics=None, **evidence):
    rows = evidence.pop("answers", answers([True] * 300))
    record = release(metrics=scored(0.9) if metrics is None else metrics)
    found = judged(stage, Evidence(release=record, answers=rows, **evidence))
    return {gate.name: gate for gate in found}


@pytest.mark.parametrize(
    ("accuracy", "verdict"), [(0.9, "met"), (0.82, "undecided"), (0.7, "not met")]
)
def test_accuracy_is_judged_by_its_interval(accuracy, verdict):
    assert gates(metrics=scored(accuracy))["accuracy"].verdict == verdict


def test_a_mark_that_the_rows_cannot_show_is_not_reachable_and_says_how_many_could():
    gate = gates("production", metrics=scored(1.0))["accuracy"]
    assert gate.verdict == "not reachable" and "300 right of 300" in gate.why
    needed = int(gate.why.split("; ")[1].split()[0])
    assert wilson(1.0, needed)[0] >= 0.99 > wilson(1.0, needed - 1)[0]


def test_a_mark_that_is_missed_stays_missed_where_no_answers_could_reach_it():
    gate = gates("production", metrics=scored(0.8))["accuracy"]
    assert gate.verdict == "not met" and "381 rows could show it" in gate.why


def test_production_inherits_the_objectives_and_staging_does_not():
    assert "latency_ms" in gates("production") and "latency_ms" not in gates()


def test_what_was_not_measured_is_not_shown_and_does_not_pass():
    assert gates()["macro_f1"].verdict == "not shown" and not gates()["macro_f1"].passed


def test_a_latency_of_a_busy_machine_is_undecided():
    slow = {"value": 150.0, "low": 140.0, "high": 160.0, "n": 500}
    busy = {"value": 2.0, "low": 1.0, "high": 3.0, "n": 500}
    found = gates("production", metrics=scored(0.9, p95_ms=slow, reference_ms=busy))["latency_ms"]
    assert found.verdict == "undecided" and "does nothing else" in found.why
    idle = {**busy, "high": 1.1}
    found = gates("production", metrics=scored(0.9, p95_ms=slow, reference_ms=idle))["latency_ms"]
    assert found.verdict == "not met"


def test_size_data_and_openings_are_judged():
    found = gates(openings=2, data_issues=["3 exact duplicates on both sides"])
    assert found["size_mb"].passed and found["holdout"].verdict == "not met"
    assert found["data"].verdict == "not met" and "3 exact" in found["data"].found


def against(right, before):
    rows = answers(right, before)
    return gates(answers=rows, in_place="1.0.0", before={row.id: row.before for row in rows})


def test_without_a_release_in_place_nothing_can_be_lost():
    found = gates()
    assert found["accuracy_loss"].found == "none is in place yet"
    assert not [name for name in found if name.startswith("slice_loss")]


def test_no_worse_is_shown_by_an_interval_overall_and_on_each_slice():
    found = against([True] * 290 + [False] * 10, [True] * 290 + [False] * 10)
    assert found["accuracy_loss"].passed and "0 won, 0 lost of 300" in found["accuracy_loss"].found
    assert {n for n in found if n.startswith("slice")} == {
        "slice_loss: language=en", "slice_loss: language=hi",
    }  # fmt: skip


def test_a_loss_is_found_and_a_small_one_cannot_be_excluded():
    lost = against([True] * 240 + [False] * 60, [True] * 300)["accuracy_loss"]
    assert lost.verdict == "not met" and "60 lost" in lost.found
    few = against([True] * 290 + [False] * 10, [True] * 300)["accuracy_loss"]
    assert few.verdict == "undecided" and "can exclude a loss of 0.013 at best" in few.why


def test_a_slice_that_loses_is_named_though_the_whole_gains():
    right = [i % 2 == 0 or i < 150 for i in range(300)]  # the second half of Hinglish is lost
    before = [i % 2 == 1 for i in range(300)]
    found = against(right, before)
    assert found["accuracy_loss"].passed
    assert found["slice_loss: language=hi"].verdict == "not met"


def test_too_few_rows_to_exclude_a_loss_are_told_with_how_many_could():
    found = against([True] * 60, [True] * 60)["accuracy_loss"]
    assert found.verdict == "not reachable" and "rows could exclude 0.05" in found.why


def test_answers_to_other_rows_show_nothing():
    found = gates(in_place="1.0.0", before={"other": "tax"})["accuracy_loss"]
    assert found.verdict == "not shown" and "no answers to the rows" in found.found


@pytest.mark.parametrize(
    ("staged", "verdict"),
    [("", "not met"), ("2026-01-01T12:00:00+00:00", "not met"),
     ("2026-01-01T10:00:00+00:00", "met")],
)  # fmt: skip
def test_hours_in_staging_are_counted(staged, verdict):
    now = datetime(2026, 1, 2, 10, 30, tzinfo=UTC)
    assert gates("production", staged=staged, now=now)["hours_in_staging"].verdict == verdict


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("acuracy = 0.9", r"\[intent_classifier\.staging\]: acuracy is not known"),
        ("accuracy = 90", "accuracy = 90 is not a number from 0 to 1"),
        ("size_mb = -1", "size_mb = -1 is not a number of 0 or more"),
        ('latency_ms = "fast"', "latency_ms = 'fast' is not"),
    ],
)
def test_a_wrong_mark_is_refused_with_its_place(home, line, said):
    (home / "data" / "objectives.toml").write_text(f"[intent_classifier.staging]\n{line}\n")
    with pytest.raises(DataError, match=said):
        gates()
