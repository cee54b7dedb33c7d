from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nivesh_lib.evaluation.benchmark import Speed
from nivesh_lib.evaluation.compression.gate import decide, recommended
from tests.evaluation.answers import rows, table

FRAME = rows(400)
REFERENCE = table(FRAME, wrong=range(40))


def decision(name="int8", wrong=range(40), **given):
    return decide(name, table(FRAME, wrong), REFERENCE, FRAME, n_boot=50, **given)


def speed(ms, p95=None):
    return Speed(1, 1, ms, p95 or 2 * ms, 3 * ms, 1000 / ms, 200, "Some CPU", ())


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [(range(40), "kept"), (range(30), "kept"), (range(42), "kept"), (range(43), "refused")],
)
def test_a_model_may_lose_half_a_point_and_no_more(wrong, verdict):
    assert decision(wrong=wrong).verdict == verdict


def test_the_loss_that_is_allowed_is_given():
    assert decision(wrong=range(43), allowed_loss=0.01).verdict == "kept"
    assert decision(wrong=range(41), allowed_loss=0.0).verdict == "refused"


def test_an_interval_that_includes_a_larger_loss_is_in_the_sentence():
    found = decision(wrong=[*range(5, 40), *range(100, 105)])
    assert found.verdict == "kept" and found.may_lose_more
    assert found.sentence == (
        f"int8: kept, 0.0 points of accuracy against fp32, though the interval reaches "
        f"−{-100 * found.difference.low:.1f}; 97.5 of 100 answers are the same."
    )


def test_an_interval_that_does_not_is_not_mentioned():
    found = decision(allowed_loss=0.02)
    assert not found.may_lose_more and "interval" not in found.sentence


def test_a_refusal_names_loss_interval_and_what_is_allowed():
    sentence = decision("pruned", wrong=range(60), reference="minilm").sentence
    assert sentence.startswith("pruned: refused, −5.0 points of accuracy against minilm [−7.")
    assert sentence.endswith("where −0.5 is allowed.")


@pytest.mark.parametrize(
    ("fast", "small", "verdict"),
    [(1.01, 1.0, "no gain"), (2.0, 1.0, "kept"), (0.8, 4.0, "kept"), (None, 1.0, "kept")],
)
def test_a_model_that_is_neither_faster_nor_smaller_is_no_gain(fast, small, verdict):
    assert decision(times_as_fast=fast, times_as_small=small).verdict == verdict


def test_hard_rows_do_not_count():
    frame = FRAME.assign(selection=["hard"] * 100 + ["natural"] * 300)
    found = decide("int8", table(frame, range(100)), REFERENCE, frame, n_boot=50)
    assert (found.scores["accuracy"].value, found.scores["accuracy"].n, found.agreement.value) == (
        1,
        300,
        1,
    )


def test_scores_of_both_stand_side_by_side_whatever_the_order_of_rows():
    shuffled = table(FRAME, range(20), sure=0.95).sample(frac=1, random_state=0)
    found = decide("int8", shuffled, REFERENCE, FRAME, n_boot=50)
    mine, theirs = found.scores, found.reference_scores
    assert (mine["accuracy"].value, theirs["accuracy"].value) == (0.95, 0.9)
    assert found.difference.value == pytest.approx(0.05)
    assert mine["macro_f1"].value > theirs["macro_f1"].value
    assert abs(mine["calibration_error"].value) < 0.02


def test_other_labels_are_refused():
    with pytest.raises(ValueError, match="int8 and fp32 have different labels: 'gold'"):
        decide("int8", REFERENCE.rename(columns={"tax": "gold"}), REFERENCE, FRAME)


def test_a_true_label_that_no_model_has_is_named():
    with pytest.raises(ValueError, match="is 'gold', which the out-of-fold table has no column"):
        decide("int8", REFERENCE, REFERENCE, FRAME.assign(intent="gold"))


def test_a_decision_is_ready_for_json():
    plain = json.loads(json.dumps(decision().as_dict()))
    assert plain["difference"]["n"] == 400 and plain["sentence"].startswith("int8: kept")
    names = ["accuracy", "macro_f1", "calibration_error"]
    assert list(plain)[6:12] == [*names, *(f"reference_{name}" for name in names)]


SPEEDS = {"fp32": speed(6), "int8": speed(1), "tiny": speed(1.02), "pruned": speed(0.5)}
SIZES = {"fp32": 90e6, "int8": 22e6, "tiny": 9e6, "pruned": 90e6}
IN_TIME = {"latency_target_ms": 100}


def test_the_fastest_of_the_kept_ones_is_recommended_and_refusals_are_named():
    found = recommended([decision(), decision("pruned", range(60))], SPEEDS, SIZES, IN_TIME)
    assert (found.model, found.meets_latency) == ("int8", True)
    assert found.sentence.startswith(
        "int8 is recommended: 1.00 ms for a query (p95 2.00 ms, 100 ms allowed); 6.0 times as fast "
        "as fp32 and 24 % of its size; 0.0 points of accuracy, down to −"
    )
    assert found.sentence.endswith("refused pruned.")


def test_of_models_as_fast_as_each_other_the_smaller_is_taken():
    assert recommended([decision(), decision("tiny")], SPEEDS, SIZES, {}).model == "tiny"


def test_a_model_whose_tail_is_too_slow_is_passed_over():
    slow_tail = SPEEDS | {"int8": speed(1, p95=150)}
    assert recommended([decision(), decision("tiny")], slow_tail, SIZES, IN_TIME).model == "tiny"


def test_the_reference_stays_where_nothing_kept_is_faster():
    found = recommended([decision("pruned", range(60))], SPEEDS, SIZES, {})
    assert (found.model, found.meets_latency) == ("fp32", None)
    assert "nothing that was kept is faster; refused pruned" in found.sentence


def test_on_a_busy_machine_a_model_that_is_not_in_time_is_undecided():
    times = {"p95_ms_low": 110.0, "p95_ms_high": 130.0, "reference_ms_n": 100}
    times |= {"reference_ms": 1.0, "reference_ms_low": 1.0, "reference_ms_high": 4.0}
    busy = {name: replace(speed(6, p95=120), **times) for name in SPEEDS}
    found = recommended([decision()], busy, SIZES, IN_TIME)
    assert (found.model, found.meets_latency) == ("fp32", None)
    assert found.sentence == (
        "fp32 stays: no model that was kept is known to answer within 100 ms (p95); measure fp32, "
        "int8 on a quiet machine."
    )


def test_the_reference_stays_where_none_answers_in_time():
    found = recommended([decision()], SPEEDS, SIZES, {"latency_target_ms": 1.5})
    assert (found.model, found.meets_latency) == ("fp32", False)
    assert "answers within 1.5 ms" in found.sentence


@pytest.mark.parametrize(
    ("decisions", "sizes", "message"),
    [
        ([], SIZES, "one reference"),
        ([decision(), decision(reference="other")], SIZES, "one reference"),
        ([decision()], {"fp32": 1}, "no size of int8"),
    ],
)
def test_what_cannot_be_compared_is_refused(decisions, sizes, message):
    with pytest.raises(ValueError, match=message):
        recommended(decisions, SPEEDS, sizes, {})


@pytest.mark.parametrize("loss", [-0.1, 1.5, float("nan")])
def test_an_allowed_loss_that_is_no_share_is_refused(loss):
    with pytest.raises(ValueError, match="is no share"):
        decision(allowed_loss=loss)


def test_rows_that_are_all_hard_decide_nothing():
    with pytest.raises(ValueError, match="all are hard"):
        decide("int8", REFERENCE, REFERENCE, FRAME.assign(selection="hard"), n_boot=50)


def test_tables_of_other_folds_are_refused():
    turned = REFERENCE.assign(fold=(REFERENCE["fold"] + 1) % 5)
    with pytest.raises(ValueError, match="different folds"):
        decide("int8", turned, REFERENCE, FRAME, n_boot=50)
