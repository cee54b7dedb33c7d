from __future__ import annotations

import re
from dataclasses import replace

import pytest

from nivesh_lib.evaluation.benchmark import Speed
from nivesh_lib.evaluation.compression.cascade import NEVER, choose_threshold
from nivesh_lib.evaluation.compression.gate import Choice, GateDecision, recommended
from nivesh_lib.evaluation.findings import compression
from nivesh_lib.evaluation.scores import score
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.reporting.figures import figure_of
from tests.evaluation.answers import rows, table

FRAME = rows(400).assign(query=lambda t: "query " + t["id"].astype(str))
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
    given = Speed(1, 2, ms / 2, ms, ms, 100, 200, "CPU", (), ms, ms, 1.0, 1.0, 1.0, 100)
    return replace(given, **fields)


def choice(name, wrong, ms, made=None, size=50e6):
    oof = table(FRAME, wrong=range(wrong) if isinstance(wrong, int) else wrong)
    right = FRAME["intent"].to_numpy(dtype=object), predicted(oof)
    return Choice(name, oof, score(*right, n_boot=50), size, made, timed=speed(ms))


def predicted(oof):
    labels = oof.columns[2:].to_numpy(dtype=object)
    return labels[oof[labels].to_numpy().argmax(axis=1)]


ENSEMBLE = choice("ensemble", 40, 25, size=190e6)
TRANSFORMER = choice("transformer", 60, 12, size=92e6)
TABLE = choice("token table", 52, 0.3, decision(0.8, 2.9, "token table"), size=1.7e6)
BAD = choice("two-layer student", 90, 5, decision(-4, 2.6, "two-layer student"))


def recommendation(*choices, target_ms=100, **more):
    advice, more = recommended(choices, target_ms), {"n_boot": 200, **more}
    return compression.recommendation(choices, advice, FRAME, target_ms=target_ms, **more)


# --- a technique -----------------------------------------------------------------------------


@pytest.mark.parametrize(("points", "loss"), [(0.8, "no more"), (-1.2, "more")])
def test_a_technique_is_stated_with_what_the_gate_does_and_no_verdict_of_its_own(points, loss):
    made = choice("tfidf", 60, 1, decision(points, 1.1, "tfidf"), size=22.7e6)
    found = compression.technique(made)
    assert found.claim == (
        f"The bag of words takes 22.7 MB, changes accuracy by {points:+.1f} ({points - 1.1:+.1f} "
        f"to {points + 1.1:+.1f}) points and answers 98 of 100 queries alike; it loses {loss} "
        "than is allowed, as its point says."
    )
    assert (found.name, found.mark, found.verdict) == ("technique_tfidf", "", "")


@pytest.mark.parametrize("points", [-0.0, -0.0001, 1.5, -1.5])
def test_no_zero_has_a_sign(points):
    made = choice("a", 60, 1, decision(points, 1.0))
    assert not re.search(r"[-−+]0\.0\b", compression.technique(made).claim)


def test_the_reference_is_what_everything_is_made_from():
    found = compression.technique(TRANSFORMER)
    assert found.name == "reference" and found.claim.startswith(
        "The fine-tuned transformer takes 92.0 MB and routes 85 of 100 queries ("
    )


# --- the cascade -----------------------------------------------------------------------------

THRESHOLD = choose_threshold(TABLE.oof, TRANSFORMER.oof, FRAME)


def cascade(**fields):
    changed = replace(THRESHOLD, **fields)
    return compression.cascade(changed, "token table", "int8_graph")


def test_a_cascade_is_stated_against_the_model_behind_it_and_not_judged():
    found = cascade(loss=Estimate(-0.01, -0.02, 0.002, 400), share=estimate(0.9, 0.02))
    assert found.claim == (
        "In front, the token table answers 90 of 100 queries (88 to 92); against the int8 graph "
        "alone accuracy changes by +1.0 (-0.2 to +2.0) points, where a loss of 0.2 points was "
        "allowed."
    )
    assert found.verdict == ""


def test_a_student_that_may_answer_nothing_is_said_to():
    found = cascade(threshold=NEVER, loss=estimate(0.0), share=estimate(0.0))
    assert found.claim == ("For a loss of at most 0.2 points, the token table may answer nothing.")


# --- the answer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "spread", "verdict", "said"),
    [(0.0, 0.3, "met", "no more is lost than the 0.5 points allowed"),
     (0.8, 2.9, "undecided", "whether more is lost than the 0.5 points allowed, these rows")],
)  # fmt: skip
def test_the_answer_is_the_best_that_was_kept(points, spread, verdict, said):
    made = replace(TABLE, decision=decision(points, spread, "token table"))
    found = compression.answer([TRANSFORMER, made, BAD], "token table")
    assert found.verdict == verdict and said in found.claim
    assert found.claim.startswith(
        "The token table answers 95 of 100 queries within 0.30 ms and takes 1.7 MB, where the "
        "fine-tuned transformer needs 12.0 ms and 92.0 MB; accuracy changes by "
    )
    assert found.table["decision"].tolist() == ["kept", "left out: loses too much"]


@pytest.mark.parametrize(
    ("spreads", "said"),
    [
        ([0.1, 0.2], None),
        ([2.9, 0.2], "For 1 of 2 techniques these 400 queries cannot settle"),
        ([2.9, 1.1], "only a loss of about 1.6 to 3.4 points would be shown to be"),
    ],
)
def test_what_these_rows_cannot_settle_is_said_once(spreads, said):
    made = [replace(TABLE, decision=decision(0, one, "token table")) for one in spreads]
    caveats = compression.answer([TRANSFORMER, *made], "token table").caveats
    assert [bool(said) and said in one for one in caveats] == [True] * bool(said) + [False]


def test_where_nothing_is_kept_the_answer_says_so():
    idle = replace(TABLE, decision=decision(0, 1, "token table", verdict="no gain"))
    found = compression.answer([TRANSFORMER, BAD, idle], "")
    assert found.verdict == "not met"
    assert found.claim.startswith("None of 2 techniques makes the fine-tuned transformer smaller")
    assert found.table["decision"].tolist()[1] == "left out: neither faster nor smaller"


# --- the recommendation ----------------------------------------------------------------------


NEAR = choice("tfidf", [*range(20), *range(100, 124)], 0.2, size=3e6)  # four rows behind


def test_the_recommendation_is_the_best_score_and_names_the_fastest_that_cannot_be_told_from_it():
    slower = choice("lstm", [*range(20), *range(100, 122)], 2.0)
    found = recommendation(TRANSFORMER, TABLE, BAD, slower, NEAR, ENSEMBLE)
    assert re.match(
        r"Of the models that answer in time, the best is the combined model: it routes 90 of "
        r"100 queries \(.*\) rightly and needs 25.0 "
        r"ms and 190.0 MB; the bag of words may be as good, at -1.0 \(.*\) "
        r"points of macro-F1, and needs 0.20 ms and 3.0 MB\.",
        found.claim,
    )
    first, second = (one.note for one in found.examples)
    assert "rightly by the combined model, taken for" in first and "by the bag of words" in first
    assert "rightly by the bag of words" in second


def test_what_is_behind_or_turned_down_is_not_named_in_its_place():
    found = recommendation(TRANSFORMER, TABLE, replace(NEAR, decision=BAD.decision), ENSEMBLE)
    assert found.claim.endswith("190.0 MB; every faster model is behind by more than chance.")


def test_what_is_recommended_is_not_turned_down():
    found = recommendation(TRANSFORMER, TABLE, BAD, ENSEMBLE, handed={"token table": 0.04}).table
    found = found.set_index("model")
    assert found["decision"].to_dict() == {
        "combined model": "recommended",
        "token table": "kept",
        "fine-tuned transformer": "not optimised",
        "two-layer student": "left out: loses too much",
    }
    assert found.loc["combined model", "points of macro-F1 against it"] == 0
    assert found["handed on, of 100"].dropna().to_dict() == {"token table": 4}


@pytest.mark.parametrize(("slow", "busy"), [(1.2, False), (3.0, True)])
def test_a_busy_machine_is_a_caveat(slow, busy):
    loop = {"reference_ms": 1.0, "reference_ms_low": 1.0, "reference_ms_high": slow}
    found = recommendation(replace(TABLE, timed=speed(1, **loop)))
    assert any("machine was busy" in caveat for caveat in found.caveats) == busy


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ([TRANSFORMER, TABLE], "Of the models that answer in time, the best is the token table"),
        (
            [TRANSFORMER, BAD],
            "Of the models that answer in time, the best is the fine-tuned transformer",
        ),
        (
            [replace(TABLE, name="static, taught")],
            "Of the models that answer in time, the best is the static, taught",
        ),
    ],
)
def test_there_is_one_recommendation(choices, said):
    found = recommendation(*choices)
    assert re.match(said, found.claim) and list(found.table["decision"]).count("recommended") == 1


def test_where_none_is_in_time_the_recommendation_says_so():
    found = recommendation(TRANSFORMER, ENSEMBLE, target_ms=5)
    assert found.claim.startswith(
        "No model is known to answer 95 of 100 queries within 5 ms; best is the combined model: it "
        "routes 90"
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
