from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest

from nivesh_lib.data.publishing import publish
from nivesh_lib.data.revision import Decision, summary
from nivesh_lib.data.versions import list_versions, load_dataset, resolve
from nivesh_lib.errors import DataError


@pytest.fixture
def first(home, make_rows):
    return publish(make_rows(60), "mine", "1.0.0", description="first", licence="CC0-1.0")


def other(label):
    return "loan_inquiry" if label != "loan_inquiry" else "tax_planning"


def decisions(*actions, ref="mine@1.0.0"):
    rows = load_dataset(ref).train.head(len(actions))
    return [
        Decision(row, action, label, other(label) if action == "relabel" else "", "asha", "why")
        for action, row, label in zip(actions, rows["id"], rows["intent"], strict=True)
    ]


def reviewed(version, review, **options):
    return publish(None, "mine", version, description="", parent="1.0.0", review=review, **options)


def test_rows_are_relabelled_and_dropped_and_nothing_else_changes(first):
    review = decisions("relabel", "drop", "keep")
    before, after = load_dataset("mine").train, load_dataset(reviewed("1.0.1", review).ref).train
    assert after["intent"][0] == review[0].new_label
    pd.testing.assert_frame_equal(
        after.drop(columns="intent"), before.drop(index=1, columns="intent").reset_index(drop=True)
    )
    assert after["intent"][1:].tolist() == before["intent"][2:].tolist()


def test_the_parent_stays_as_it_was_and_no_row_changes_side(first):
    files = {path: path.read_bytes() for path in first.folder.iterdir()}
    version = reviewed("1.0.1", decisions("relabel", "drop"))
    assert {path: path.read_bytes() for path in first.folder.iterdir()} == files
    assert version.manifest["holdout"] == first.manifest["holdout"]
    [folds, old] = [v.manifest["folds"] for v in (version, first)]
    assert all(set(now) <= set(then) for now, then in zip(folds, old, strict=True))


def test_lineage_says_what_changed_who_decided_and_when(first):
    review = decisions("relabel", "drop", "keep")
    version = reviewed("1.0.1", review, created="2026-02-01")
    assert (version.parent, version.rows) == ("1.0.0", 59)
    assert version.manifest["transformation"] == "review of 3 rows: 1 relabelled, 1 dropped, 1 kept"
    common = {"who": "asha", "when": "2026-02-01", "note": "why"}
    one, two, _ = review
    assert version.changes == [
        {"id": one.id, "column": "intent", "from": one.label, "to": one.new_label, **common},
        {"id": two.id, "column": "row", "from": two.label, "to": None, **common},
    ]
    assert resolve("mine@1.0.0").changes == []


def test_a_manifest_keeps_one_line_for_each_change(first):
    version = reviewed("1.0.1", decisions("relabel", "relabel"))
    lines = (version.folder / "manifest.json").read_text("utf-8").splitlines()
    assert sum('"who": "asha"' in line for line in lines) == 2


def test_a_review_and_new_rows_may_come_together(first, make_rows):
    version = publish(
        make_rows(20, seed=1), "mine", "1.1.0", description="", parent="1.0.0",
        review=decisions("relabel", "drop"),
    )  # fmt: skip
    assert version.rows == 79
    assert version.manifest["transformation"].endswith(
        "; review of 2 rows: 1 relabelled, 1 dropped"
    )


def test_a_dropped_row_stays_on_its_side_when_it_is_added_again(first):
    review = decisions("drop")
    [row] = load_dataset("mine").train.head(1).to_dict("records")
    reviewed("1.0.1", review)
    again = pd.DataFrame([{"query": row["query"], "intent": row["intent"]}])
    publish(again, "mine", "1.1.0", description="", parent="1.0.1")
    assert row["query"] in set(load_dataset("mine@1.1.0").train["query"])


def test_an_out_of_scope_set_is_reviewed_by_kind(home, make_rows):
    rows = make_rows(40, labels=("chat", "sport")).rename(columns={"intent": "kind"})
    publish(rows, "oos", "1.0.0", description="", task="out_of_scope")
    [row] = load_dataset("oos").train.head(1).to_dict("records")
    new = "sport" if row["kind"] == "chat" else "chat"
    version = publish(
        None, "oos", "1.0.1", description="", parent="1.0.0",
        review=[Decision(row["id"], "relabel", row["kind"], new, "asha")],
    )  # fmt: skip
    assert version.changes[0]["column"] == "kind"
    assert load_dataset("oos@1.0.1").train["kind"][0] == new


@pytest.mark.parametrize("version", ["1.0.1", "1.1.0", "2.0.0"])
def test_a_correction_takes_any_newer_number_as_long_as_the_labels_stay(first, version):
    assert reviewed(version, decisions("relabel")).labels == first.labels


def test_other_labels_demand_a_major_number(first):
    [decision] = decisions("relabel")
    review = [replace(decision, new_label="gold")]
    with pytest.raises(DataError, match=r"'gold' is new.*publish version 2\.0\.0"):
        reviewed("1.1.0", review)
    assert reviewed("2.0.0", review).labels[-1] == "gold"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": "keep", "new_label": ""}, "changes nothing: review of 1 row: 1 kept"),
        ({"action": "relable"}, "'relable' is not keep, relabel, drop"),
        ({"new_label": ""}, "without a new label"),
        ({"id": "zzz"}, "zzz is no training row of the parent"),
        ({"label": "gold"}, "in the parent, not 'gold'"),
    ],
)
def test_a_decision_that_does_not_fit_publishes_nothing(first, change, message):
    [decision] = decisions("relabel")
    with pytest.raises(DataError, match=message):
        reviewed("1.0.1", [replace(decision, **change)])
    assert [v.version for v in list_versions()] == ["1.0.0"]


def test_held_out_rows_and_rows_decided_twice_are_refused(first):
    [decision] = decisions("relabel")
    held = [replace(decision, id=row) for row in first.manifest["holdout"][:1]]
    with pytest.raises(DataError, match="no training row of the parent"):
        reviewed("1.0.1", held)
    with pytest.raises(DataError, match="decided twice"):
        reviewed("1.0.1", [decision, decision])


def test_a_review_needs_a_parent_and_a_version_needs_rows(first):
    with pytest.raises(DataError, match="name it as the parent"):
        publish(None, "mine", "1.0.1", description="", review=decisions("drop"))
    with pytest.raises(DataError, match="no training rows to publish"):
        publish(None, "mine", "1.0.1", description="", parent="1.0.0")


def test_a_label_cannot_lose_its_last_training_row(first):
    rows = load_dataset("mine").train
    tax = rows[rows["intent"] == "tax_planning"]
    with pytest.raises(DataError, match="'tax_planning' has no training row"):
        reviewed("1.0.1", [Decision(row, "drop", "tax_planning", who="asha") for row in tax["id"]])


def test_of_reviews_published_at_the_same_time_one_becomes_the_version(first):
    review = decisions("relabel", "drop")

    def attempt(n):
        try:
            return reviewed("1.0.1", [replace(one, who=f"r{n}") for one in review])
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(attempt, range(4)))
    told = [text for text in outcomes if isinstance(text, str)]
    assert len(told) == 3 and all("exists and is never edited" in text for text in told)
    assert len({change["who"] for change in resolve("mine@1.0.1").changes}) == 1


def test_a_held_out_twin_with_another_label_does_not_stand_in_the_way(home, make_rows):
    rows, test = make_rows(60), make_rows(20, seed=1)
    test.loc[0, "query"] = rows["query"][0]
    test.loc[0, "intent"] = other(rows["intent"][0])
    with pytest.warns(UserWarning, match="in training too"):
        publish(rows, "mine", "1.0.0", description="", holdout_rows=test)
    with pytest.warns(UserWarning, match="in training too"):
        assert reviewed("1.0.1", decisions("keep", "drop")).rows == 79


def test_the_data_file_has_the_new_labels(first):
    [decision] = decisions("relabel")
    version = reviewed("1.0.1", [decision])
    rows = json.loads((version.folder / "mine.json").read_text("utf-8"))
    assert next(r["intent"] for r in rows if r["id"] == decision.id) == decision.new_label


@pytest.mark.parametrize(
    ("actions", "sentence"),
    [
        (["drop"], "review of 1 row: 1 dropped"),
        (["relabel", "drop", "relabel"], "review of 3 rows: 2 relabelled, 1 dropped"),
    ],
)
def test_a_review_is_told_in_one_phrase(actions, sentence):
    assert summary([Decision(str(n), action, "a") for n, action in enumerate(actions)]) == sentence
