from __future__ import annotations

from dataclasses import replace

import pytest

from nivesh_lib.evaluation.benchmark import Speed
from nivesh_lib.evaluation.compression.gate import Choice, Recommendation, decide, recommended
from nivesh_lib.records.estimate import Estimate
from tests.evaluation.answers import rows, table

FRAME = rows(400)
REFERENCE = table(FRAME, wrong=range(40))


def decision(name="int8", wrong=range(40), **given):
    return decide(name, table(FRAME, wrong), REFERENCE, FRAME, n_boot=50, **given)


def speed(ms, p95=None):
    p95, loop = p95 or 2 * ms, (1.0, 1.0, 1.0, 100)
    return Speed(1, 1, ms, p95, 3 * ms, 1000 / ms, 200, "Some CPU", (), p95, p95, *loop)


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [(range(40), "kept"), (range(30), "kept"), (range(42), "kept"), (range(43), "refused")],
)
def test_a_model_may_lose_half_a_point_and_no_more(wrong, verdict):
    assert decision(wrong=wrong).verdict == verdict


def test_the_loss_that_is_allowed_is_given():
    assert decision(wrong=range(43), allowed_loss=0.01).verdict == "kept"
    assert decision(wrong=range(41), allowed_loss=0.0).verdict == "refused"


@pytest.mark.parametrize(
    ("wrong", "may", "does"),
    [(range(40), False, False), ([*range(5, 40), *range(100, 105)], True, False),
     (range(60), True, True)],
)  # fmt: skip
def test_the_interval_says_whether_more_may_be_lost_and_whether_it_is(wrong, may, does):
    found = decision(wrong=wrong, allowed_loss=0.01)
    assert (found.may_lose_more, found.loses_more) == (may, does)


@pytest.mark.parametrize(
    ("fast", "small", "verdict"),
    [(1.01, 1.0, "no gain"), (2.0, 1.0, "kept"), (0.8, 4.0, "kept"), (None, 1.0, "kept")],
)
def test_a_model_that_is_neither_faster_nor_smaller_is_no_gain(fast, small, verdict):
    assert decision(times_as_fast=fast, times_as_small=small).verdict == verdict
    if fast:
        assert decision(times_as_small=small).timed(fast).verdict == verdict


def test_what_is_refused_stays_so_however_fast_it_is():
    found = decision(wrong=range(60), times_as_small=4.0).timed(100.0)
    assert (found.verdict, found.times_as_fast) == ("refused", 100.0)


def test_hard_rows_do_not_count():
    frame = FRAME.assign(selection=["hard"] * 100 + ["natural"] * 300)
    found = decide("int8", table(frame, range(100)), REFERENCE, frame, n_boot=50)
    assert (found.scores["accuracy"].value, found.scores["accuracy"].n, found.agreement.value) == (
        1,
        300,
        1,
    )


def test_the_order_of_rows_does_not_matter():
    shuffled = table(FRAME, range(20), sure=0.95).sample(frac=1, random_state=0)
    found = decide("int8", shuffled, REFERENCE, FRAME, n_boot=50)
    assert found.scores["accuracy"].value == 0.95
    assert found.difference.value == pytest.approx(0.05)


def test_other_labels_are_refused():
    with pytest.raises(ValueError, match="int8 and fp32 have different labels: 'gold'"):
        decide("int8", REFERENCE.rename(columns={"tax": "gold"}), REFERENCE, FRAME)


def test_a_true_label_that_no_model_has_is_named():
    with pytest.raises(ValueError, match="is 'gold', which the out-of-fold table has no column"):
        decide("int8", REFERENCE, REFERENCE, FRAME.assign(intent="gold"))


def choice(name, f1, ms=1.0, verdict="kept", **speeds):
    scores = {"macro_f1": Estimate(f1, f1 - 0.02, f1 + 0.02, 400)}
    made = replace(decision(), verdict=verdict) if verdict else None
    return Choice(name, REFERENCE, scores, 1e6, made, timed=replace(speed(ms), **speeds))


BEST, SLOW = choice("combined", 0.9, 20, ""), choice("slow", 0.95, 200, "")
SMALL, TINY = choice("small", 0.88), choice("tiny", 0.87, 0.1)
BAD, IDLE = choice("bad", 0.96, verdict="refused"), choice("idle", 0.97, verdict="no gain")


@pytest.mark.parametrize(
    ("choices", "found"),
    [
        ([BEST, SMALL, TINY], ("combined", "small", True)),  # not the fastest: all are in time
        ([BEST, SLOW, TINY], ("combined", "tiny", True)),
        ([BEST, BAD, IDLE], ("combined", "", True)),
        ([SMALL, TINY], ("small", "small", True)),
        ([SLOW], ("slow", "", False)),
        ([SLOW, choice("late", 0.9, 300)], ("slow", "late", False)),
    ],
)
def test_the_best_score_in_time_is_recommended_and_never_what_was_refused(choices, found):
    advice = recommended(choices, 100)
    assert (advice.model, advice.optimised, advice.meets_latency) == found


def test_without_a_target_every_model_is_in_time():
    assert recommended([BEST, SLOW]) == Recommendation("slow", "", True)


def test_on_a_busy_machine_a_model_that_is_not_in_time_is_undecided():
    times = {"p95_ms_low": 110.0, "p95_ms_high": 130.0, "reference_ms_n": 100}
    times |= {"reference_ms": 1.0, "reference_ms_low": 1.0, "reference_ms_high": 4.0}
    assert recommended([choice("one", 0.9, 60, **times)], 100).meets_latency is None


def test_where_the_gate_kept_nothing_there_is_nothing_to_recommend():
    with pytest.raises(ValueError, match="the gate kept none"):
        recommended([BAD, IDLE])


@pytest.mark.parametrize("loss", [-0.1, 1.5, float("nan")])
def test_an_allowed_loss_that_is_no_share_is_refused(loss):
    with pytest.raises(ValueError, match="is no share"):
        decision(allowed_loss=loss)


def test_tables_of_other_folds_are_refused():
    turned = REFERENCE.assign(fold=(REFERENCE["fold"] + 1) % 5)
    with pytest.raises(ValueError, match="different folds"):
        decide("int8", turned, REFERENCE, FRAME, n_boot=50)
