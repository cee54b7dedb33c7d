from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd
import pytest

from nivesh_lib.evaluation.benchmark import Speed
from nivesh_lib.evaluation.compression.cascade import NEVER, cascade_scores, choose_threshold
from nivesh_lib.evaluation.compression.gate import Choice, GateDecision, recommended
from nivesh_lib.evaluation.confidence.calibration import Calibration
from nivesh_lib.evaluation.findings import compression
from nivesh_lib.evaluation.scores import score
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.reporting.figures import figure_of
from tests.evaluation.answers import rows, table

FRAME = rows(400)
ALLOWED = 0.005


def estimate(value, spread=0.0):
    return Estimate(value, value - spread, value + spread, 400)


def decision(points, spread, name="int8 graph", verdict=None, **fields):
    """A change of accuracy in points with half its interval, decided by the point."""
    change = estimate(points / 100, spread / 100)
    verdict = verdict or ("kept" if points >= -0.5 else "refused")
    scores = {"accuracy": estimate(0.84, 0.02)}
    return GateDecision(
        name, "transformer", verdict, ALLOWED, change, estimate(0.98), scores, **fields
    )


def speed(ms, **fields):
    return Speed(1, 2, ms / 2, ms, ms, 100, 200, "Some CPU", (), ms, ms, **fields)


def choice(name, wrong, ms, verdict="", size=50e6):
    oof = table(FRAME, wrong=range(wrong))
    right = FRAME["intent"].to_numpy(dtype=object), predicted(oof)
    return Choice(name, oof, score(*right, n_boot=50), speed(ms), size, verdict)


def predicted(oof):
    labels = oof.columns[2:].to_numpy(dtype=object)
    return labels[oof[labels].to_numpy().argmax(axis=1)]


ENSEMBLE = choice("ensemble", 40, 25, size=190e6)
TRANSFORMER = choice("transformer", 60, 12, size=92e6)
TABLE = choice("token table", 52, 0.3, "kept", size=1.7e6)
BAD = choice("two-layer student", 90, 5, "refused")


def recommendation(*choices, target_ms=100):
    advice = recommended(choices, target_ms)
    return compression.recommendation(choices, advice, FRAME, target_ms=target_ms)


# --- a technique -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "spread", "verdict", "said"),
    [
        (0.0, 0.2, "met", "no more is lost than the 0.5 points"),
        (-0.25, 0.25, "met", "no more is lost"),
        (0.8, 2.9, "undecided", "by its point it is kept, within the 0.5"),
        (-1.2, 1.1, "undecided", "by its point it is left out, beyond the 0.5"),
        (-4.0, 2.6, "not met", "more is lost than the 0.5 points that are allowed, so it is left"),
    ],
)
def test_a_technique_is_judged_by_its_interval_and_kept_by_its_point(points, spread, verdict, said):
    found = compression.technique(decision(points, spread), 23e6)
    assert (found.verdict, bool(found.caveats)) == (verdict, verdict == "undecided")
    assert said in found.claim and found.claim.startswith(
        "The int8 graph takes 23.0 MB and changes"
    )


@pytest.mark.parametrize("points", [-0.0, -0.0001, 1.5, -1.5])
def test_no_zero_has_a_sign_and_no_loss_is_negative(points):
    found = compression.technique(decision(points, 1.0), 1e6)
    assert not re.search(r"[-−+]0\.0\b|lost -", found.claim) and "lost" not in found.table.columns


def test_a_name_is_displayed_and_a_row_is_as_good_as_the_claim():
    found = compression.technique(decision(0.0, 0.2, name="tfidf"), 3.14e6)
    assert found.claim.startswith("The bag of words takes 3.1 MB")
    assert found.mark.endswith("against the fine-tuned transformer")
    assert found.table.iloc[0]["model"] == "bag of words" and found.name == "technique_tfidf"


def test_the_reference_is_what_everything_is_made_from():
    found = compression.reference("transformer", estimate(0.84, 0.02), 92e6)
    assert found.claim == (
        "The fine-tuned transformer, as it is, routes 84 of 100 queries (82 to 86) rightly and "
        "takes 92.0 MB."
    )


# --- the cascade -----------------------------------------------------------------------------

THRESHOLD = choose_threshold(TABLE.oof, TRANSFORMER.oof, FRAME)
CURVE = cascade_scores(TABLE.oof, TRANSFORMER.oof, FRAME)


def cascade(**fields):
    changed = replace(THRESHOLD, **fields)
    return compression.cascade(changed, CURVE, "token table", "int8_graph")


@pytest.mark.parametrize(
    ("loss", "verdict", "said"),
    [
        (
            Estimate(-0.01, -0.02, 0.002, 400),
            "met",
            "by +1.0 (-0.2 to +2.0) points, and at most 0.2",
        ),
        (
            Estimate(0.01, -0.01, 0.03, 400),
            "undecided",
            "by -1.0 (-3.0 to +1.0) points, and whether",
        ),
        (Estimate(0.02, 0.01, 0.03, 400), "not met", "by -2.0 (-3.0 to -1.0) points, more than"),
    ],
)
def test_a_cascade_is_judged_by_what_it_loses_to_the_model_behind_it(loss, verdict, said):
    found = cascade(loss=loss, share=estimate(0.9, 0.02))
    assert found.verdict == verdict and said in found.claim
    assert found.claim.startswith("In front, the token table answers 90 of 100 queries (88 to 92)")
    assert figure_of(found).axes[0].get_title(loc="left").replace("\n", " ") == found.title


def test_a_student_that_may_answer_nothing_is_said_to():
    found = cascade(threshold=NEVER, loss=estimate(0.0), share=estimate(0.0))
    assert found.claim == ("For a loss of at most 0.2 points, the token table may answer nothing.")


# --- calibration -----------------------------------------------------------------------------


def test_an_error_below_zero_is_shown_as_zero():
    oof = pd.DataFrame()
    calibrations = {
        "tfidf": Calibration(0.4, {}, oof, estimate(0.3, 0.02), estimate(-0.009, 0.03), True),
        "static": Calibration(0.7, {}, oof, estimate(0.1, 0.02), estimate(-0.02, 0.01), True),
    }
    found = compression.calibration(calibrations)
    assert found.claim == (
        "Stated confidence is off by up to 30.0 points, for the bag of words; rescaled, none of 2 "
        "models shows an error above 2.1 points."
    )
    assert (found.table.filter(like="after").to_numpy() >= 0).all()


# --- the race --------------------------------------------------------------------------------


def test_the_race_names_the_fastest_and_the_slowest():
    found = compression.race([ENSEMBLE, TABLE, TRANSFORMER])
    assert found.claim == (
        "Of 3 models, the token table answers fastest, 95 of 100 queries within 0.30 ms, and the "
        "slowest, the combined model, takes 25 ms."
    )
    assert found.table["95 of 100 within, ms"].tolist() == [0.3, 12, 25]


@pytest.mark.parametrize(("slow", "busy"), [(1.2, False), (3.0, True)])
def test_a_busy_machine_is_a_caveat(slow, busy):
    loop = {"reference_ms": 1.0, "reference_ms_low": 1.0, "reference_ms_high": slow}
    found = compression.race([replace(TABLE, speed=speed(1, **loop))])
    assert any("machine was busy" in caveat for caveat in found.caveats) == busy


# --- the answer ------------------------------------------------------------------------------


@pytest.mark.parametrize(("points", "verdict"), [(0.0, "met"), (0.8, "undecided")])
def test_the_answer_is_the_best_that_was_kept(points, verdict):
    judged = decision(points, 0.3 if verdict == "met" else 2.9, name="token table")
    found = compression.answer(TABLE, TRANSFORMER, [judged, decision(-4, 1)])
    assert found.verdict == verdict and ("cannot tell" in found.claim) == (verdict == "undecided")
    assert (
        "within 0.30 ms and takes 1.7 MB, where the fine-tuned transformer needs 12 ms and 92.0"
        in (found.claim)
    )


def test_where_nothing_is_kept_the_answer_says_so():
    found = compression.answer(
        None, TRANSFORMER, [decision(-4, 1), decision(0, 1, verdict="no gain")]
    )
    assert found.verdict == "not met"
    assert found.claim.startswith("None of 2 techniques makes the fine-tuned transformer smaller")


# --- the recommendation ----------------------------------------------------------------------


def test_the_recommendation_is_the_leader_and_says_what_the_small_model_costs():
    found = recommendation(TRANSFORMER, TABLE, BAD, ENSEMBLE)
    assert found.claim.startswith("Serve the combined model: it routes 90 of 100 queries (")
    assert "the token table in its place changes accuracy by -3.0 (-5.2 to -1." in found.claim
    assert found.claim.endswith("points and needs 0.30 ms and 1.7 MB.")


def test_what_is_recommended_is_not_turned_down():
    found = recommendation(TRANSFORMER, TABLE, BAD, ENSEMBLE).table.set_index("model")
    assert found["decision"].to_dict() == {
        "combined model": "recommended",
        "token table": "best optimised",
        "fine-tuned transformer": "not optimised",
        "two-layer student": "left out by its point",
    }
    assert found.loc["combined model", "points against it"] == 0


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ([TRANSFORMER, TABLE], "Serve the token table"),
        ([TRANSFORMER, BAD], "Serve the fine-tuned transformer.*no optimised model was kept"),
        ([replace(TABLE, name="static, taught")], "Serve the static, taught"),
    ],
)
def test_there_is_one_recommendation(choices, said):
    found = recommendation(*choices)
    assert re.match(said, found.claim) and list(found.table["decision"]).count("recommended") == 1


def test_where_none_is_in_time_the_recommendation_says_so():
    found = recommendation(TRANSFORMER, ENSEMBLE, target_ms=5)
    assert found.claim.startswith(
        "No model is known to answer 95 of 100 queries within 5 ms; the most accurate is the "
        "combined model: it routes 90"
    )


def test_the_scatter_marks_what_is_recommended():
    found = recommendation(TRANSFORMER, TABLE, BAD, ENSEMBLE)
    assert found.plot.data["points"][-1]["name"] == "combined model"
    assert len(figure_of(found).axes[0].collections) == 4


# --- serving ---------------------------------------------------------------------------------


def test_what_a_server_needs_is_said_of_each_model():
    row = {"model": "ensemble", "peak_bytes": 697e6, "per_second": 102.2, "batch_size": 32}
    found = compression.serving([row, {**row, "model": "token table", "per_second": 13875}])
    assert found.claim == (
        "The combined model holds up to 697.0 MB of memory and answers 102 queries a second; the "
        "token table holds up to 697.0 MB of memory and answers 13,875 queries a second."
    )
