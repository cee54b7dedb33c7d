"""The sections of a report, whatever their record holds and lacks."""

from __future__ import annotations

import pytest

from nivesh_lib.records.results import StepResult
from nivesh_lib.reporting import sections as reported

ALL = ["folds", "time", "confidence", "abstention", "segments", "behaviour", "errors"]


def results(records):
    return {step: StepResult.model_validate(contents) for step, contents in records.items()}


def sections(records):
    return reported.sections(results(records))


def unread(records):
    return reported.unread(results(records))


def by_id(record):
    return {section.id: section for section in sections({"06": record})}


def words(section):
    texts = []
    for part in section.parts:
        texts += [part.title, *part.sentences, part.note]
        for row in part.table.rows if part.table else ():
            texts += [f"{cell.text} {cell.soft}" for cell in row]
    return "\n".join(texts)


def test_a_whole_record_gives_every_section_in_reading_order(record):
    assert [section.id for section in sections({"01": {}, "06": record})] == ALL
    assert {section.step for section in sections({"06": record})} == {"06"}
    assert unread({"06": record}) == []


def test_without_an_evaluation_there_is_no_section():
    records = {"03": {"model": "tfidf", "folds": [{"fold": 0, "accuracy": 0.5}]}}
    assert sections(records) == [] and unread(records) == []


@pytest.mark.parametrize(
    ("gone", "section"),
    [
        (("calibration",), "confidence"),
        (("routing",), "abstention"),
        (("folds", "repeats", "learning"), "folds"),
        (("over_time", "temporal"), "time"),
    ],
)
def test_what_is_absent_is_left_out(record, gone, section):
    rest = {key: value for key, value in record.items() if key not in gone}
    assert list(by_id(rest)) == [name for name in ALL if name != section]


DAMAGED = [None, "text", 3, True, [], {}, [1], ["a"], [[]], [{}], {"a": 1}, {"a": {}}, [None]]
DAMAGED += [[{"model": 1, "test": 2, "first": 3, "second": [], "attribute": None, "segment": {}}]]
DAMAGED += [{"models": [], "champion": 1}, [{"rank": "1", "model": "good", "difference": "x"}]]


@pytest.mark.parametrize("damaged", DAMAGED, ids=repr)
@pytest.mark.parametrize(
    "key",
    [
        *("comparison", "folds", "calibration", "routing", "segments", "gaps", "flips"),
        *("behaviour", "overlaps", "flipped", "help"),
        *("repeats", "learning", "over_time", "temporal", "crossed"),
    ],
)
def test_a_damaged_table_costs_no_other_one(record, key, damaged):
    assert len(by_id({**record, key: damaged})) >= 5
    assert (key in unread({"06": {**record, key: damaged}})) == bool(damaged)


@pytest.mark.parametrize(
    "key",
    [
        *("calibration", "gaps", "flips", "behaviour", "overlaps", "help"),
        *("repeats", "learning", "over_time", "temporal", "crossed"),
    ],
)
def test_a_row_without_numbers_breaks_nothing(record, key):
    bare = [
        {name: None if isinstance(value, float | dict) else value for name, value in row.items()}
        for row in record[key]
    ]
    assert len(by_id({**record, key: bare})) >= 5


def test_the_confidence_of_the_best_model_is_put_in_words(record):
    (part,) = by_id(record)["confidence"].parts
    best = record["calibration"][0]
    assert f"good is off by {100 * best['ece_before']:.1f} (" in part.sentences[0]
    assert part.table.rows[0][0].text == "good"
    assert part.table.rows[0][3].text == f"{best['temperature']:.2f}"


def test_a_difference_that_may_be_none_is_described_by_its_upper_end(record):
    after = {"ece_after": -0.01, "ece_after_low": -0.03, "ece_after_high": 0.021}
    rows = [{**record["calibration"][0], **after}]
    (part,) = by_id({**record, "calibration": rows})["confidence"].parts
    assert part.sentences[0].endswith(
        "after calibration these queries show no difference (at most 2.1)."
    )


def test_each_score_of_certainty_is_a_row(record):
    (part,) = by_id(record)["abstention"].parts
    assert [(row[0].text, row[1].text) for row in part.table.rows] == [
        ("confidence alone", "40.0"),
        ("calibrated confidence and OOD score", "70.0"),
    ]


def test_the_threshold_of_least_cost_is_described_by_its_shares_and_cost(record):
    (part,) = by_id(record)["abstention"].parts
    assert "0.45, 92.0 of 100 queries in scope are answered" in part.sentences[1]
    assert "75.0 of 100 outside are rejected; a query costs 0.170" in part.sentences[1]


def test_sure_gaps_are_named_and_undecided_segments_counted(record):
    gap = {"segment": "language=hi", "rows": 30, "difference": -0.2, "verdict": "gap"}
    unsure = {**gap, "segment": "language=en", "verdict": "cannot tell", "detectable": float("nan")}
    part = by_id({**record, "gaps": [gap, unsure]})["segments"].parts[0]
    assert part.sentences == ("Sure gaps: language: hi. For 1 of 2 these rows cannot tell.",)


def test_combinations_of_segments_are_named_by_their_segments(record):
    part = by_id(record)["segments"].parts[2]
    assert part.title == "Where segments meet" and len(part.table.rows) == 6
    assert part.table.rows[0][0].text == "en, high"


def test_behaviours_of_the_best_model_stand_beside_those_of_the_others(record):
    (part,) = by_id(record)["behaviour"].parts
    assert part.table.columns[2:] == ("good fails, of 100", "The others fail, of 100")
    shares = [float(row[2].text) for row in part.table.rows]
    assert shares == sorted(shares, reverse=True)
    assert all(row[3].text.startswith("weak\u00a0") for row in part.table.rows)


def test_shares_of_answers_that_changed_are_shown_of_100(record):
    shown = words(by_id(record)["errors"])
    won = record["flipped"]["positive_rate"]
    assert f"Against weak: of 100 queries, {100 * won:.1f} (" in shown


def test_leaks_are_listed_and_their_absence_is_stated(record):
    assert "✘ 3 rows are on both sides." in words(by_id(record)["errors"])
    none = words(by_id({**record, "leaks": []})["errors"])
    assert "Nothing that the checks look for was found." in none


def test_long_tables_are_cut_and_say_so(record):
    pair = {"first": "a", "second": "b", "first_as_second": 2, "second_as_first": 1, "share": 0.1}
    part = by_id({**record, "overlaps": [pair] * 20})["errors"].parts[1]
    assert len(part.table.rows) == 12 and part.note == "The first 12 of 20 pairs."


def test_optimised_models_have_their_verdict_and_recommendation(optimised):
    (section,) = sections({"07": optimised})
    (part,) = section.parts
    assert (section.id, section.step) == ("optimisation", "07")
    assert part.sentences == ("Serve the int8 model.",)
    assert [row[1].text for row in part.table.rows] == ["kept", "refused"]
    assert [row[4].text for row in part.table.rows] == ["1.00", "not measured"]
    assert "Measured on Some CPU (avx2)." in part.note


def test_both_notebooks_have_their_sections(record, optimised):
    assert [s.id for s in sections({"06": record, "07": optimised})] == [*ALL, "optimisation"]


@pytest.mark.parametrize("key", ["gates", "race", "recommendation"])
@pytest.mark.parametrize("damaged", DAMAGED, ids=repr)
def test_a_damaged_record_of_optimised_models_breaks_nothing(optimised, key, damaged):
    records = {"07": {**optimised, key: damaged}}
    assert len(sections(records)) == (key != "gates")
    assert unread(records) == (["gates"] if key == "gates" and damaged else [])
