from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest

from nivesh_lib.data.publishing import publish
from nivesh_lib.data.review import COLUMNS, Decision, read_review, summary, write_review
from nivesh_lib.data.versions import list_versions, load_dataset, resolve
from nivesh_lib.errors import DataError


@pytest.fixture
def data(home, make_rows):
    """mine@1.0.0: 48 training rows, 12 held out; one text holds a phone number."""
    rows = make_rows(60)
    rows["query"] += [" call +91 98765 43210" if n % 2 else "" for n in range(60)]
    publish(rows, "mine", "1.0.0", description="")
    return load_dataset("mine@1.0.0")


@pytest.fixture
def file(data, tmp_path):
    return write_review(tmp_path / "review.csv", doubted(data), reviewer="asha")


def doubted(data, n=6):
    rows = data.train.head(n).rename(columns={"intent": "label"})
    return rows[["id", "query", "label"]].assign(suggested="goal_planning", score=0.125)


def cells(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(path, *edits, columns=COLUMNS, add=()):
    """Change cells as ``(row from 0, column, text)``, as a person in a spreadsheet would."""
    rows = cells(path)
    for row, column, text in edits:
        rows[row][column] = text
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*rows, *add])
    return path


def other(label):
    return "loan_inquiry" if label != "loan_inquiry" else "tax_planning"


def refusal(file, data, **options):
    with pytest.raises(DataError) as caught:
        read_review(file, data, **options)
    return str(caught.value)


# --- writing -----------------------------------------------------------------------------------


def test_the_file_has_the_doubtful_rows_and_empty_cells_to_fill_in(file, data):
    rows = cells(file)
    assert tuple(rows[0]) == COLUMNS
    assert [row["id"] for row in rows] == data.train["id"].head(6).tolist()
    assert {(r["decision"], r["new_label"], r["note"], r["reviewer"]) for r in rows} == {
        ("", "", "", "asha")
    }
    assert rows[0]["score"] == "0.1250"


def test_texts_are_anonymised_and_marked_as_utf_8(file):
    raw = file.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    assert b"[PHONE]" in raw and b"98765" not in raw


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_a_text_that_looks_like_a_formula_is_written_as_text_and_read_back(
    home, make_rows, tmp_path, start
):
    rows = make_rows(60)
    publish(rows.assign(query=start + rows["query"]), "mine", "1.0.0", description="")
    data = load_dataset("mine")
    path = write_review(tmp_path / "a.csv", doubted(data), reviewer="=1+1")
    assert all(row["query"].startswith(f"'{start}") for row in cells(path))
    [decision] = read_review(fill(path, (0, "decision", "drop")), data)
    assert decision.who == "=1+1"


def test_an_existing_file_is_never_overwritten(file, data):
    before = file.read_bytes()
    with pytest.raises(DataError, match=r"review\.csv exists and may hold decisions; name another"):
        write_review(file, doubted(data))
    assert file.read_bytes() == before


def test_of_writers_at_the_same_time_one_succeeds_and_leaves_a_whole_file(data, tmp_path):
    path = tmp_path / "new" / "review.csv"

    def write(n):
        try:
            return write_review(path, doubted(data, 40), reviewer=f"r{n}")
        except DataError:
            return None

    with ThreadPoolExecutor(8) as pool:
        written = [found for found in pool.map(write, range(16)) if found]
    assert written == [path]
    assert len({row["reviewer"] for row in cells(path)}) == 1 and len(cells(path)) == 40
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(data, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="taken cannot be written"):
        write_review(tmp_path / "taken" / "review.csv", doubted(data))


def test_without_rows_nothing_is_written(data, tmp_path):
    with pytest.raises(DataError, match="no rows to review"):
        write_review(tmp_path / "review.csv", doubted(data).head(0))
    assert not (tmp_path / "review.csv").exists()


# --- reading -----------------------------------------------------------------------------------


def test_decisions_are_read_with_who_and_why(file, data):
    labels = [row["label"] for row in cells(file)]
    fill(
        file,
        (0, "decision", "relabel"), (0, "new_label", other(labels[0])), (0, "note", "asks a loan"),
        (1, "decision", " Drop "), (1, "reviewer", "ravi"), (1, "note", "of +91 98765 43210"),
        (2, "decision", "keep"),
    )  # fmt: skip
    first, second, third = read_review(file, data)
    assert (first.action, first.label, first.new_label) == ("relabel", labels[0], other(labels[0]))
    assert (first.who, first.note) == ("asha", "asks a loan")
    assert (second.action, second.who, second.note) == ("drop", "ravi", "of [PHONE]")
    assert (third.action, third.new_label) == ("keep", "")


def test_a_file_that_a_spreadsheet_saved_with_semicolons_can_be_read(file, data):
    fill(file, (0, "decision", "drop"))
    with file.open(newline="") as source:
        rows = list(csv.reader(source))
    with file.open("w", newline="") as target:
        csv.writer(target, delimiter=";").writerows(rows)
    assert "add --delimiter ';'" in refusal(file, data)
    assert len(read_review(file, data, delimiter=";")) == 1


def test_a_file_in_which_nothing_is_decided_is_refused(file, data):
    assert "none of its 6 rows is decided; write keep, relabel, drop" in refusal(file, data)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([("id", "zzz")], "id 'zzz' is no row of mine@1.0.0"),
        ([("id", "")], "id is missing"),
        ([("query", "another text")], "the query is not that of mine@1.0.0"),
        ([("label", "gold")], "label is 'gold', in mine@1.0.0 it is 'tax_planning'; write another"),
        ([("decision", "relable")], "'relable' is not keep, relabel, drop or empty (did you mean"),
        ([("decision", "relabel")], "decision is relabel, and new_label is empty"),
        ([("new_label", "loan_inquiry")], "new_label is 'loan_inquiry' but decision is 'empty'"),
        (
            [("decision", "keep"), ("new_label", "loan_inquiry")],
            "new_label is 'loan_inquiry' but decision is 'keep', not relabel",
        ),
        (
            [("decision", "relabel"), ("new_label", "loan_inqiry")],
            "'loan_inqiry' is not in the labels (did you mean 'loan_inquiry'?)",
        ),
        (
            [("decision", "relabel"), ("new_label", "tax_planning")],
            "new_label 'tax_planning' is the label that the row has; write keep",
        ),
        ([("decision", "drop"), ("reviewer", " ")], "reviewer is empty"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(file, data, edits, message):
    row = next(n for n, line in enumerate(cells(file)) if line["label"] == "tax_planning")
    error = refusal(fill(file, *[(row, *edit) for edit in edits]), data)
    assert f"line {row + 2}: " in error and message in error
    assert error.endswith("Correct the file; nothing was published.")


def test_all_problems_come_at_once_in_the_order_of_lines(file, data):
    again = cells(file)[0]
    fill(
        file,
        (1, "id", "zzz"), (3, "decision", "relable"), (4, "label", "x"), (4, "query", "y"),
        add=[again],
    )  # fmt: skip
    error = refusal(file, data).splitlines()
    assert error[0].endswith("review.csv has 5 problems:")
    assert [line.split(":")[0].strip() for line in error[1:6]] == [
        "line 3", "line 5", "line 6", "line 6", "line 8",
    ]  # fmt: skip
    assert f"id {again['id']!r} is in line 2 already" in error[5]


def test_a_text_over_several_lines_does_not_shift_the_numbers(home, make_rows, tmp_path):
    rows = make_rows(60)
    publish(rows.assign(query=rows["query"] + "\nand more"), "mine", "1.0.0", description="")
    data = load_dataset("mine")
    path = write_review(tmp_path / "a.csv", doubted(data))
    assert "line 6: decision 'x'" in refusal(fill(path, (2, "decision", "x")), data)


def test_a_held_out_row_cannot_be_reviewed(file, data):
    held = data.manifest["holdout"][0]
    assert f"line 2: id {held!r} is held out" in refusal(fill(file, (0, "id", held)), data)


def test_a_review_of_another_dataset_is_refused_in_one_line(file, make_rows):
    publish(make_rows(60, seed=9), "other", "1.0.0", description="")
    error = refusal(file, load_dataset("other"))
    assert "none of its 6 ids is a training row of other@1.0.0" in error and "\n" not in error


def test_missing_columns_and_another_kind_of_file_are_named(file, data, tmp_path):
    (tmp_path / "a.csv").write_bytes(b"PK\x03\x04 a spreadsheet")
    assert "zip or Excel" in refusal(tmp_path / "a.csv", data)
    assert "does not exist" in refusal(tmp_path / "b.csv", data)
    fill(file, columns=[name for name in COLUMNS if name not in ("note", "decision", "score")])
    assert "has no column decision, note; a review file has id, query" in refusal(file, data)


def test_one_text_is_not_given_two_labels(home, make_rows, tmp_path):
    rows = make_rows(60)
    twins = rows.assign(query=rows["query"].str.upper())
    publish(pd.concat([rows, twins]), "mine", "1.0.0", description="")
    data = load_dataset("mine")
    text = data.train["query"].str.casefold()
    pair = data.train[text == text[0]].rename(columns={"intent": "label"})
    shown = pair[["id", "query", "label"]].assign(suggested="x", score=0.1)
    path = write_review(tmp_path / "a.csv", shown, reviewer="asha")
    new = other(pair["label"].iloc[0])
    fill(path, (0, "decision", "relabel"), (0, "new_label", new))
    assert "line 2: another row has this text and another label" in refusal(path, data)
    fill(path, (1, "decision", "relabel"), (1, "new_label", new))
    assert len(read_review(path, data)) == 2


def test_empty_rows_that_a_spreadsheet_left_are_passed_over(file, data):
    fill(file, (0, "decision", "keep"), add=[dict.fromkeys(COLUMNS, ""), {"note": "  "}])
    assert len(read_review(file, data)) == 1


@pytest.fixture
def first(home, make_rows):
    return publish(make_rows(60), "mine", "1.0.0", description="first", licence="CC0-1.0")


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


def test_the_manifest_records_what_changed_who_decided_and_when(first):
    review = decisions("relabel", "drop", "keep")
    version = reviewed("1.0.1", review, created="2026-02-01")
    assert (version.parent, version.rows) == ("1.0.0", 59)
    assert version.manifest["transformation"] == "review of 3 rows: 1 relabelled, 1 dropped, 1 kept"
    common = {"who": "asha", "when": "2026-02-01", "note": "why"}
    one, two, _ = review
    assert version.manifest["changes"] == [
        {"id": one.id, "column": "intent", "from": one.label, "to": one.new_label, **common},
        {"id": two.id, "column": "row", "from": two.label, "to": None, **common},
    ]
    assert "changes" not in resolve("mine@1.0.0").manifest


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
    assert version.manifest["changes"][0]["column"] == "kind"
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
        ({"id": "zzz"}, "zzz is no training row of the parent"),
        ({"label": "gold"}, "of the parent with label 'gold'"),
    ],
)
def test_a_decision_that_does_not_fit_publishes_nothing(first, change, message):
    [decision] = decisions("relabel")
    with pytest.raises(DataError, match=message):
        reviewed("1.0.1", [replace(decision, **change)])
    assert [v.version for v in list_versions()] == ["1.0.0"]


def test_held_out_rows_are_refused(first):
    [decision] = decisions("relabel")
    held = [replace(decision, id=row) for row in first.manifest["holdout"][:1]]
    with pytest.raises(DataError, match="no training row of the parent"):
        reviewed("1.0.1", held)


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
    refused = [text for text in outcomes if isinstance(text, str)]
    assert len(refused) == 3 and all("exists and is never edited" in text for text in refused)
    assert len({change["who"] for change in resolve("mine@1.0.1").manifest["changes"]}) == 1


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
def test_a_review_is_summarised_in_one_phrase(actions, sentence):
    assert summary([Decision(str(n), action, "a") for n, action in enumerate(actions)]) == sentence
