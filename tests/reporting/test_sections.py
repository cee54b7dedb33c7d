"""The sections are made from what the evaluation itself returns, on small data."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.behaviour import behaviour
from nivesh_lib.evaluation.bias import accuracy_gaps, flip_rates, gap_table, segment_scores
from nivesh_lib.evaluation.calibration import brier, cross_fitted_temperature
from nivesh_lib.evaluation.comparison import compare
from nivesh_lib.evaluation.crossval import predicted_labels, probabilities
from nivesh_lib.evaluation.gates import judge, recommended
from nivesh_lib.evaluation.latency import Speed
from nivesh_lib.evaluation.leakage import Leak
from nivesh_lib.evaluation.mistakes import flips, overlapping_intents
from nivesh_lib.evaluation.probes import INTRODUCED, POLITE
from nivesh_lib.evaluation.repeats import fold_intervals, fold_scores
from nivesh_lib.evaluation.slices import masks_by_column
from nivesh_lib.reporting.sections import comparison_of, evaluation_of, sections, unread

LABELS = ["loan", "save", "tax"]
ALL = ["folds", "confidence", "handover", "segments", "behaviour", "errors"]


def table_of(frame, rng, accuracy):
    right = rng.random(len(frame)) < accuracy
    shift = rng.integers(1, 3, len(frame))
    answer = (frame["intent"].map(LABELS.index) + np.where(right, 0, shift)) % 3
    sure = rng.uniform(0.9, 0.99, len(frame))
    proba = np.tile(((1 - sure) / 2)[:, None], 3)
    proba[np.arange(len(frame)), answer] = sure
    return pd.concat([frame[["id", "fold"]], pd.DataFrame(proba, columns=LABELS)], axis=1)


@pytest.fixture(scope="module")
def record():
    """What a notebook records of two models, "good" being right in 90 % and too sure."""
    rng = np.random.default_rng(0)
    n = 300
    frame = pd.DataFrame(
        {
            "id": [f"q{i}" for i in range(n)],
            "fold": np.arange(n) % 5,
            "intent": rng.choice(LABELS, n),
            "language": rng.choice(["en", "hi"], n),
            "income_segment": rng.choice(["low", "middle", "high"], n),
        }
    )
    oof = {name: table_of(frame, rng, share) for name, share in (("good", 0.9), ("weak", 0.6))}
    predicted = {name: predicted_labels(oof[name]) for name in oof}
    asked = [table_of(frame, rng, 0.85).assign(probe=p) for p in (INTRODUCED, POLITE)]
    person = table_of(frame, rng, 0.85).assign(probe="person: another name")
    probes = pd.concat([*asked, person], ignore_index=True)
    masks = masks_by_column(frame, ["language", "income_segment"])
    calibration = []
    for name, one in oof.items():
        found = cross_fitted_temperature(
            probabilities(one), frame["intent"], frame["fold"].to_numpy(), n_boot=50
        )
        calibration.append(
            {"model": name, "temperature": found.temperature, "helped": found.helped}
            | {"ece_before": found.before.as_dict(), "ece_after": found.after.as_dict()}
            | {"brier": brier(probabilities(one), frame["intent"], n_boot=50).value}
        )
    changed = flips(frame, oof["weak"], oof["good"])
    folds = {name: fold_intervals(fold_scores(one, frame))["macro_f1"] for name, one in oof.items()}
    pairs = overlapping_intents(frame["intent"], predicted["weak"], LABELS)
    told = {
        "model": "good",
        "comparison": compare(frame["intent"], predicted, n_boot=50).as_dict(),
        "folds": [{"model": name, **found.as_dict()} for name, found in folds.items()],
        "calibration": calibration,
        "routing": [
            {"score": "confidence", "recall_95": 0.4, "recall_95_low": 0.3, "recall_95_high": 0.5},
            {"score": "certainty", "recall_95": 0.7, "recall_95_low": 0.6, "recall_95_high": 0.8}
            | {"threshold": 0.45, "acceptance": 0.92, "recall": 0.75, "cost": 0.17},
        ],
        "segments": segment_scores(frame, oof["good"], masks, n_boot=50).to_dict("records"),
        "gaps": gap_table(accuracy_gaps(predicted["good"] == frame["intent"], masks)).to_dict(
            "records"
        ),
        "flips": flip_rates(oof["good"], probes).to_dict("records"),
        "behaviour": [
            {"model": name, **row}
            for name, one in oof.items()
            for row in behaviour(frame, one, probes).to_dict("records")
        ],
        "overlaps": pairs.to_dict("records"),
        "flipped": {
            "before": "weak",
            "won": asdict(changed.positive_rate),
            "lost": asdict(changed.negative_rate),
        },
        "leaks": [asdict(Leak("split", "3 rows are on both sides."))],
        "help": [{"group": "language=hi", "rows": 150, "share": 0.6, "gain": 0.03}],
    }
    return json.loads(json.dumps(told, default=lambda value: value.tolist()))


def by_id(record):
    return {section.id: section for section in sections({"06": record})}


def words(section):
    told = []
    for part in section.parts:
        told += [part.title, *part.said, part.note]
        for row in part.table.rows if part.table else ():
            told += [f"{cell.text} {cell.soft}" for cell in row]
    return "\n".join(told)


def test_a_whole_record_gives_every_section_in_reading_order(record):
    assert [section.id for section in sections({"01": {}, "06": record})] == ALL
    assert {section.step for section in sections({"06": record})} == {"06"}
    assert unread({"06": record}) == []


def test_without_an_evaluation_there_is_no_section():
    results = {"03": {"model": "tfidf", "folds": [{"fold": 0, "accuracy": 0.5}]}}
    assert evaluation_of(results) is None and sections(results) == []
    assert comparison_of(results) is None and unread(results) == []


@pytest.mark.parametrize(
    ("gone", "section"),
    [("calibration", "confidence"), ("routing", "handover"), ("folds", "folds")],
)
def test_what_is_absent_is_left_out(record, gone, section):
    rest = {key: value for key, value in record.items() if key != gone}
    assert list(by_id(rest)) == [name for name in ALL if name != section]


ODD = [None, "text", 3, True, [], {}, [1], ["a"], [[]], [{}], {"a": 1}, {"a": {}}, [None]]
ODD += [[{"model": 1, "test": 2, "first": 3, "second": [], "attribute": None, "segment": {}}]]
ODD += [{"models": [], "champion": 1}, [{"rank": "1", "model": "good", "difference": "x"}]]


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize(
    "key",
    [
        *("comparison", "folds", "calibration", "routing", "segments", "gaps", "flips"),
        *("behaviour", "overlaps", "flipped", "help"),
    ],
)
def test_an_odd_table_costs_no_other_one(record, key, odd):
    told = by_id({**record, key: odd})
    assert len(told) >= 5
    assert (key in unread({"06": {**record, key: odd}})) == bool(odd)


@pytest.mark.parametrize("key", ["calibration", "gaps", "flips", "behaviour", "overlaps", "help"])
def test_a_row_without_numbers_breaks_nothing(record, key):
    bare = [
        {name: None if isinstance(value, float | dict) else value for name, value in row.items()}
        for row in record[key]
    ]
    assert len(by_id({**record, key: bare})) >= 5


def test_the_comparison_brings_its_own_sentence(record):
    told = comparison_of({"06": record})
    assert told["sentence"].startswith("good is better than")
    assert "300 queries" in told["note"] and "1 pair of models" in told["note"]


def test_a_comparison_may_be_recorded_as_its_table(record):
    rows = [
        {"rank": "1=", "model": "good", "difference": None},
        {"rank": "1=", "model": "weak", "difference": -0.1, "difference_low": -0.2}
        | {"difference_high": 0.1, "p": 0.4},
    ]
    told = comparison_of({"06": {**record, "comparison": rows}})
    assert told["champion"] == "good" and told["sentence"] == "good cannot be told from weak."
    assert told["models"][1]["to_champion"]["differs"] is False


def test_the_confidence_of_the_best_model_is_put_in_words(record):
    (part,) = by_id(record)["confidence"].parts
    best = record["calibration"][0]
    assert f"good is off by {100 * best['ece_before']['value']:.1f} (" in part.said[0]
    assert part.table.rows[0][0].text == "good"
    assert part.table.rows[0][3].text == f"{best['temperature']:.2f}"


def test_a_calibration_that_did_not_help_is_said_not_to(record):
    rows = [{**record["calibration"][0], "helped": False}]
    (part,) = by_id({**record, "calibration": rows})["confidence"].parts
    assert "calibration does not lower that" in part.said[0]


def test_a_difference_that_may_be_none_is_told_by_its_upper_end(record):
    after = {"value": -0.01, "low": -0.03, "high": 0.021}
    rows = [{**record["calibration"][0], "ece_after": after, "helped": True}]
    (part,) = by_id({**record, "calibration": rows})["confidence"].parts
    assert part.said[0].endswith(
        "after calibration these queries show no difference (at most 2.1)."
    )


@pytest.mark.parametrize(
    "routing",
    [
        {"plain": {"recall_95": 0.4}, "certainty": {"recall_95": {"value": 0.7}}},
        [{"score": "plain", "recall_95": 0.4}, {"score": "certainty", "recall_95": 0.7}],
    ],
)
def test_hand_overs_are_read_as_rows_or_by_score(record, routing):
    (part,) = by_id({**record, "routing": routing})["handover"].parts
    assert [(row[0].text, row[1].text) for row in part.table.rows] == [
        ("confidence alone", "40.0"),
        ("calibrated confidence and familiarity", "70.0"),
    ]


def test_the_threshold_of_least_cost_is_told_with_what_it_does(record):
    (part,) = by_id(record)["handover"].parts
    assert "0.45, 92.0 of 100 queries in scope are answered" in part.said[1]
    assert "75.0 of 100 outside are turned away; a query costs 0.170" in part.said[1]


def test_sure_gaps_are_named_and_those_that_cannot_be_told_counted(record):
    gap = {"segment": "language=hi", "rows": 30, "difference": -0.2, "verdict": "gap"}
    unsure = {**gap, "segment": "language=en", "verdict": "cannot tell", "detectable": float("nan")}
    told = by_id({**record, "gaps": [gap, unsure]})["segments"].parts[0]
    assert told.said == ("Sure gaps: language: hi. For 1 of 2 these rows cannot tell.",)


def test_behaviours_of_the_best_model_stand_beside_those_of_the_others(record):
    (part,) = by_id(record)["behaviour"].parts
    assert part.table.columns[2:] == ("good fails, of 100", "The others fail, of 100")
    shares = [float(row[2].text) for row in part.table.rows]
    assert shares == sorted(shares, reverse=True)
    assert all(row[3].text.startswith("weak\u00a0") for row in part.table.rows)


def test_shares_of_answers_that_changed_are_said_of_100(record):
    told = words(by_id(record)["errors"])
    won = record["flipped"]["won"]
    assert f"Against weak: of 100 queries, {100 * won['value']:.1f} (" in told


def test_rates_are_taken_before_counts_of_the_same_name(record):
    flipped = {
        "before": "weak",
        "won": 72,
        "lost": 30,
        "positive_rate": 0.09,
        "negative_rate": 0.04,
    }
    told = words(by_id({**record, "flipped": flipped})["errors"])
    assert "9.0 that were wrong are right now and 4.0 that were right are wrong now" in told


def test_leaks_are_listed_and_their_absence_is_said(record):
    assert "✘ 3 rows are on both sides." in words(by_id(record)["errors"])
    none = words(by_id({**record, "leaks": []})["errors"])
    assert "Nothing that the checks look for was found." in none


def test_long_tables_are_cut_and_say_so(record):
    pair = {"first": "a", "second": "b", "first_as_second": 2, "second_as_first": 1, "share": 0.1}
    part = by_id({**record, "overlaps": [pair] * 20})["errors"].parts[1]
    assert len(part.table.rows) == 12 and part.note == "The first 12 of 20 pairs."


@pytest.fixture(scope="module")
def optimised():
    """What a notebook records of two optimised models, the second much worse."""
    rng, n = np.random.default_rng(0), 300
    frame = pd.DataFrame({"id": [f"q{i}" for i in range(n)], "fold": np.arange(n) % 5})
    frame["intent"] = rng.choice(LABELS, n)
    fp32, bad = (table_of(frame, rng, share) for share in (0.9, 0.5))
    judgements = [
        judge(name, t, fp32, frame, n_boot=50) for name, t in (("int8", fp32), ("x", bad))
    ]
    speeds = {
        (name, size): Speed(size, 1, ms, 2 * ms, 3 * ms, 100, 200, "Some CPU", ("avx2",))
        for name, ms in (("fp32", 6.0), ("int8", 1.0))
        for size in (1, 8)
    }
    single = {name: speed for (name, size), speed in speeds.items() if size == 1}
    advice = recommended(judgements, single, {"fp32": 4, "int8": 1, "x": 1}, {})
    told = {
        "gates": [judged.as_dict() for judged in judgements],
        "speeds": [{"model": name, **speed.as_dict()} for (name, _), speed in speeds.items()],
        "recommendation": advice.as_dict(),
    }
    return json.loads(json.dumps(told))


def test_optimised_models_are_told_with_verdict_and_recommendation(optimised):
    (section,) = sections({"07": optimised})
    (part,) = section.parts
    assert (section.id, section.step) == ("optimisation", "07")
    assert part.said[0].startswith("int8 is recommended: 1.00 ms")
    assert [row[1].text for row in part.table.rows] == ["kept", "refused"]
    assert [row[4].text for row in part.table.rows] == ["1.00", "not measured"]
    assert "Measured on Some CPU (avx2)." in part.note


def test_both_notebooks_have_their_sections(record, optimised):
    assert [s.id for s in sections({"06": record, "07": optimised})] == [*ALL, "optimisation"]


@pytest.mark.parametrize("key", ["gates", "speeds", "recommendation"])
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_an_odd_record_of_optimised_models_breaks_nothing(optimised, key, odd):
    results = {"07": {**optimised, key: odd}}
    made = sections(results)
    assert len(made) == (key != "gates")
    assert unread(results) == (["gates"] if key == "gates" and odd else [])
