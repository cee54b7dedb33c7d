from __future__ import annotations

import json

import pandas as pd
import pytest

from nivesh_lib.data import validation
from nivesh_lib.data.publishing import publish
from nivesh_lib.data.validation import (
    Measures,
    changes_since_parent,
    find_issues,
    validate_intent_data,
)
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.errors import DataError


def messages(frame, **options):
    return " | ".join(issue.message for issue in find_issues(Measures(frame), **options))


def with_cell(rows, position, column, value):
    rows = rows.astype(object)
    rows.loc[position, column] = value
    return rows


def test_clean_rows_are_valid(make_rows):
    result = validate_intent_data(make_rows(30))
    assert (result["valid"], result["issues"]) == (True, [])


def test_the_seeds_statistics_are_there_and_can_be_stored(make_rows):
    result = validate_intent_data(make_rows(30))
    stats = json.loads(json.dumps(result))["stats"]
    assert stats["label_distribution"] == dict.fromkeys(
        ["tax_planning", "loan_inquiry", "goal_planning"], 10
    )
    lengths = [stats[f"{kind}_query_length"] for kind in ("avg", "min", "max")]
    assert lengths == [6.0, 6, 6]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("query", None, "Empty query at index 3"),
        ("query", "  ", "Empty query at index 3"),
        ("query", 12, "query is not text at index 3"),
        ("intent", None, "Missing intent at index 3"),
        ("intent", "", "Missing intent at index 3"),
        ("intent", "gold", "intent is not in the labels at index 3"),
        ("intent", "x" * 300, "intent is longer than 100 characters at index 3"),
        ("created_at", "soon", "created_at is no ISO date at index 3"),
    ],
)
def test_bad_cells_are_errors_at_their_index(make_rows, column, value, message):
    rows = with_cell(make_rows(30), 3, column, value)
    result = validate_intent_data(rows, labels=["tax_planning", "loan_inquiry", "goal_planning"])
    assert not result["valid"]
    assert message in result["issues"]


def test_dates_of_several_forms_are_an_error(make_rows):
    rows = make_rows(30, created_at="2026-01-25")
    rows.loc[[3, 7], "created_at"] = ["2026-13-01", "2026-01-25T10:30:00Z"]
    assert set(validate_intent_data(rows)["issues"]) == {
        "created_at is no ISO date at index 3",
        "created_at is written unlike the first date at index 7",
    }


def test_repeated_texts_are_counted_up_to_case_and_space(make_rows):
    rows = make_rows(30)
    doubles = rows.head(2).assign(query=lambda d: "  " + d["query"].str.upper())
    result = validate_intent_data(pd.concat([rows, doubles]))
    assert "Found 2 duplicate queries at index 30 and 1 more" in result["issues"]
    assert (result["valid"], result["stats"]["duplicates"]) == (False, 2)


def test_one_text_with_two_labels_is_an_error(make_rows):
    rows = make_rows(30)
    rows.loc[3, "query"] = rows["query"][1]
    assert "2 rows with conflicting labels" in messages(rows)


def test_imbalance_sends_the_data_back(make_rows):
    rows = pd.concat([make_rows(44, labels=("a",)), make_rows(4, seed=1, labels=("b",))])
    result = validate_intent_data(rows)
    assert not result["valid"]
    assert result["issues"] == [
        "High class imbalance detected: the largest class is 11.0 times the smallest"
    ]


def test_one_label_is_an_error(make_rows):
    assert "one label only" in messages(make_rows(9, labels=("a",)))


def test_near_duplicates_are_a_warning_with_their_share(make_rows):
    rows = make_rows(40)
    rows.loc[4, ["query", "intent"]] = rows["query"][0] + "!", rows["intent"][0]
    result = validate_intent_data(rows)
    assert "Found 2 rows (5.0%) that nearly repeat another" in result["warnings"]
    assert result["stats"]["near_duplicates"] == {"rows": 2, "share": 0.05}


def test_what_takes_long_is_searched_once(make_rows, monkeypatch):
    searched = []
    pairs, pii = validation.near_duplicate_pairs, validation.find_pii
    monkeypatch.setattr(
        validation, "near_duplicate_pairs", lambda texts: searched.append("near") or pairs(texts)
    )
    monkeypatch.setattr(validation, "find_pii", lambda text: searched.append("pii") or pii(text))
    rows = with_cell(make_rows(30), 3, "query", "call me on +91 98765 43210 about my loan")
    result = validate_intent_data(rows)
    assert sum(result["stats"]["pii"].values()) == 1
    assert (searched.count("near"), searched.count("pii")) == (1, 30)


def test_personal_data_are_counted_by_kind_and_never_repeated(make_rows):
    rows = with_cell(make_rows(30), 3, "query", "call me on +91 98765 43210 about my loan")
    result = validate_intent_data(rows)
    assert sum(result["stats"]["pii"].values()) == 1
    assert any(issue.startswith("Personal data found: 1 ") for issue in result["issues"])
    assert "98765" not in json.dumps(result)


def test_messages_never_quote_a_query(make_rows):
    rows = make_rows(30)
    broken = pd.concat([rows, rows, rows.assign(intent="gold")])
    text = messages(broken, labels=["tax_planning"])
    assert not any(query in text for query in rows["query"])


def test_a_shift_of_length_against_a_reference_is_a_warning(make_rows):
    rows = make_rows(60)
    longer = make_rows(60, seed=1).assign(query=lambda d: d["query"] + " and " + rows["query"])
    result = validate_intent_data(longer, reference=rows)
    assert result["valid"]
    assert any("lengths differ" in issue for issue in result["warnings"])
    assert result["stats"]["length_shift"]["statistic"] == 1.0


def test_no_shift_is_seen_where_there_is_none(make_rows):
    result = validate_intent_data(make_rows(60, seed=1), reference=make_rows(60))
    assert (result["issues"], result["stats"]["length_shift"]["p"]) == ([], 1.0)


def test_issues_name_ids_where_there_are_some(make_rows):
    rows = with_cell(make_rows(30, id=[f"r{n}" for n in range(30)]), 3, "query", "")
    [issue] = find_issues(Measures(rows))
    assert (issue.rows, issue.severity, issue.check) == (("r3",), "error", "cells")


def test_checks_say_what_found_an_issue_and_name_at_most_three_rows(make_rows):
    rows = make_rows(30).assign(intent="one")
    rows.loc[:8, "query"] = ""
    blank, single = validate_intent_data(rows)["checks"]
    assert (blank["check"], blank["severity"], blank["rows"]) == ("cells", "error", [0, 1, 2])
    assert (single["check"], single["rows"]) == ("balance", [])


def test_a_version_is_compared_with_its_parent_where_it_has_one(home, make_rows):
    publish(make_rows(50), "mine", "1.0.0", description="")
    publish(make_rows(20, seed=1), "mine", "1.1.0", description="", parent="1.0.0")
    changes = changes_since_parent(load_dataset("mine@1.1.0"))
    assert (changes["old"], changes["added"], len(changes["mean_words"])) == ("mine@1.0.0", 20, 2)
    assert changes_since_parent(load_dataset("mine@1.0.0")) is None


def test_no_rows_are_an_error(make_rows):
    assert not validate_intent_data(make_rows(30).head(0))["valid"]


def test_a_json_file_of_the_seeds_shape_is_read_leniently(tmp_path):
    items = [{"query": "tax", "intent": "a"}, {"query": "", "intent": "b"}, {"intent": "b"}]
    path = tmp_path / "intents.json"
    path.write_text(json.dumps(items))
    assert "Empty query at index 1 and 1 more" in validate_intent_data(str(path))["issues"]


def test_a_version_is_validated_by_its_training_rows(home, make_rows):
    publish(make_rows(50), "mine", "1.0.0", description="")
    data = load_dataset("mine")
    assert validate_intent_data(data) == validate_intent_data("mine@1.0.0")
    assert validate_intent_data(data)["stats"]["rows"] == 40


@pytest.mark.parametrize(
    ("data", "message"),
    [("none.json", "does not exist"), (pd.DataFrame({"x": ["a"]}), "no column 'query'; it has x")],
)
def test_what_cannot_be_read_is_an_error(home, data, message):
    with pytest.raises(DataError, match=message):
        validate_intent_data(data)
