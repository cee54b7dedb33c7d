"""``nivesh data add --feedback``: from what servers kept to rows that a person accepted."""

from __future__ import annotations

import csv
import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from nivesh_lib.cli.app import data_app
from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset, resolve
from nivesh_lib.errors import NiveshError
from nivesh_lib.files import append_line
from nivesh_lib.paths import feedback_file
from nivesh_lib.serving.feedback import keep
from nivesh_lib.serving.schemas import Correction

TO = ("--feedback", "--extends", "1.0.0", "--version", "1.1.0")
NONE = dict.fromkeys(
    (
        "unreadable",
        "unknown_intent",
        "rejected",
        "conflicting",
        "confirming",
        "repeated",
        "present",
    ),
    0,
)


@pytest.fixture
def rows(make_rows):
    return make_rows(60)


@pytest.fixture
def home(home, rows):
    """mine@1.0.0: 48 training rows, 12 held out, three labels."""
    publish(rows, "mine", "1.0.0", description="", sources=["written"])
    return home


@pytest.fixture
def call(home):
    """Run ``nivesh data add mine …``: code, standard output, and standard error or the error."""

    def run(*arguments):
        done = CliRunner().invoke(data_app, ["add", "mine", *map(str, arguments)])
        if isinstance(done.exception, NiveshError):
            return 1, done.stdout, f"{done.stderr}error: {done.exception}"
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done.exit_code, done.stdout, done.stderr

    return run


@pytest.fixture
def new(make_rows):
    """Queries that are near none of the dataset."""
    return make_rows(9, seed=7)["query"].tolist()


@pytest.fixture
def review(home):
    return home / "reports" / "reviews" / "mine@1.0.0.corrections.csv"


def correct(query, intent="tax_planning", predicted="loan_inquiry"):
    return keep(Correction(query=query, intent=intent, predicted=predicted), feedback_file())


def held_out(rows):
    return sorted(set(rows["query"]) - set(load_dataset("mine@1.0.0").train["query"]))


def lines(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(path, *decisions, reviewer="asha"):
    """Write ``(decision, new_label)`` into the first rows."""
    found = lines(path)
    for row, (decision, label) in zip(found, decisions, strict=False):
        row |= {"decision": decision, "new_label": label, "reviewer": reviewer}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return path


# --- what a person is to decide on -------------------------------------------------------------


def test_new_corrections_are_written_for_a_person_and_nothing_is_published(call, new, review):
    ids = [correct(new[0] + " call 98765 43210"), correct(new[1], "goal_planning", None)]
    before = feedback_file().read_bytes()
    code, output, _ = call(*TO)
    assert code == 0 and output.startswith(f"{review}: 2 rows; label is the user's")
    assert f"nivesh data add mine {feedback_file()} --feedback --review {review}" in output
    found = lines(review)
    assert [row["id"] for row in found] == ids
    assert found[0]["query"] == new[0] + " call [PHONE]"
    assert [(row["label"], row["suggested"], row["decision"]) for row in found] == [
        ("tax_planning", "loan_inquiry", ""),
        ("goal_planning", "", ""),
    ]
    assert feedback_file().read_bytes() == before
    assert [version.name for version in review.parents[2].glob("data/mine/v*")] == ["v1.0.0"]


def test_lines_that_cannot_be_read_are_told_by_number_and_passed_over(call, new, tmp_path, review):
    correct(new[0])
    good = feedback_file().read_bytes()
    record = json.loads(good)
    bad = [
        good[:-20],
        good[: good.index(b"tax_planning") + 4] + "₹".encode()[:2],
        b"\x00\x00\x00\x00",
        b"[1]",
        b"[" * 100_000,
        *(
            json.dumps(record | change).encode()
            for change in (
                {"id": "1"}, {"id": 7}, {"query": None}, {"query": " \u200b"}, {"query": "a\x00"},
                {"query": "\ud800"}, {"query": "a " * 60_000}, {"intent": ["a"]},
                {"predicted": 3},
            )
        ),
        b"{}",
    ]  # fmt: skip
    file = tmp_path / "kept.txt"
    file.write_bytes(b"\n".join([*bad, b"", good]))
    code, output, told = call(file, *TO, "--json")
    assert code == 0
    assert json.loads(output) == {
        "dataset": "mine@1.0.0", "feedback": str(file), "file": str(review), "rows": 1,
        "left_out": NONE | {"unreadable": len(bad)},
    }  # fmt: skip
    numbers = ", ".join(map(str, range(1, len(bad) + 1)))
    assert told == f"{file}: {len(bad)} left out, unreadable: line {numbers}\n"


def test_many_lines_are_not_all_named(call, new):
    correct(new[0])
    for _ in range(25):
        append_line(feedback_file(), b"half")
    told = call(*TO)[2]
    assert "25 left out, unreadable: line 2, 3" in told and told.endswith("21, …\n")


def test_what_is_no_new_label_is_left_out_with_the_reason(call, new, review):
    correct(new[0], "gold")
    correct(new[1])
    correct(new[1].upper(), "goal_planning")  # the same query with another intent
    correct(new[2], "tax_planning", "tax_planning")
    correct(new[3])
    correct(f"  {new[3]}  ")
    code, output, told = call(*TO, "--json")
    assert code == 0 and [row["query"] for row in lines(review)] == [new[3]]
    counts = {"unknown_intent": 1, "conflicting": 2, "confirming": 1, "repeated": 1}
    assert json.loads(output)["left_out"] == NONE | counts
    for line in ("unknown intent: line 1", "conflicting: line 2, 3", "confirming: line 4"):
        assert line in told
    assert "repeated: line 6" in told


def test_a_confirmation_of_another_intent_is_a_conflict(call, new):
    correct(new[0], "tax_planning", "tax_planning")
    correct(new[0], "goal_planning", "tax_planning")
    code, _, told = call(*TO)
    assert code == 1 and "2 left out, conflicting: line 1, 2" in told


def test_an_id_that_is_there_twice_counts_once(call, new, review):
    correct(new[0])
    again = json.loads(feedback_file().read_bytes()) | {"query": new[1]}
    append_line(feedback_file(), json.dumps(again).encode())
    assert call(*TO)[0] == 0
    assert [row["query"] for row in lines(review)] == [new[0]]


def test_what_clients_wrote_as_the_answer_is_shown_only_where_it_is_a_label(call, new, review):
    correct(new[0], predicted="=HYPERLINK(1)")
    assert call(*TO)[0] == 0
    assert lines(review)[0]["suggested"] == ""


def test_a_file_that_was_not_anonymised_is(call, new, tmp_path, review):
    correct(new[0])
    record = json.loads(feedback_file().read_bytes()) | {"query": f"{new[0]} of 98765 43210"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    assert call(tmp_path / "a.jsonl", *TO)[0] == 0
    fill(review, ("keep", ""))
    assert call(tmp_path / "a.jsonl", *TO, "--review", review)[0] == 0
    assert f"{new[0]} of [PHONE]" in set(load_dataset("mine").train["query"])


def test_control_characters_do_not_reach_the_file(call, new, review):
    correct(f"\x1b[31m{new[0]}\x07")
    assert call(*TO)[0] == 0
    assert lines(review)[0]["query"] == new[0]


# --- what the dataset has already --------------------------------------------------------------


@pytest.mark.parametrize("change", [str, str.upper, lambda query: f"{query[:-1]}x"])
@pytest.mark.parametrize("side", ["training", "held out"])
def test_what_is_there_or_nearly_so_is_left_out_and_never_shown(
    call, rows, new, review, side, change
):
    known = held_out(rows)[0] if side == "held out" else load_dataset("mine").train["query"][0]
    correct(change(known))
    correct(new[0])
    code, output, told = call(*TO)
    assert code == 0 and [row["query"] for row in lines(review)] == [new[0]]
    assert told == f"{feedback_file()}: 1 left out, present\n"
    assert known.casefold() not in (output + told + review.read_text()).casefold()


def test_a_known_query_is_found_although_its_number_was_masked(call, make_rows, new, review):
    rows = make_rows(60).assign(query=lambda d: d["query"] + " 98765 43210 maybe a b c d e f")
    publish(rows, "mine", "2.0.0", description="")
    known = held_out_of(rows, "mine@2.0.0")[0]
    correct(known)
    correct(new[0])
    assert call("--feedback", "--extends", "2.0.0", "--version", "2.1.0")[0] == 0
    path = review.with_name("mine@2.0.0.corrections.csv")
    assert [row["query"] for row in lines(path)] == [new[0]]


def held_out_of(rows, ref):
    return sorted(set(rows["query"]) - set(load_dataset(ref).train["query"]))


def test_a_query_that_another_version_holds_out_is_left_out(call, make_rows, new, review):
    held = make_rows(8, seed=3)
    publish(
        make_rows(8, seed=4), "mine", "1.0.5", description="", parent="1.0.0", holdout_rows=held
    )
    correct(held["query"][0])
    correct(new[0])
    assert call(*TO)[0] == 0
    assert [row["query"] for row in lines(review)] == [new[0]]


def test_amounts_make_no_new_query_however_many_there_are(call, rows, new, review):
    known = rows["query"][0]
    publish(pd.DataFrame({"query": [f"{new[0]} 5"], "intent": ["tax_planning"]}), "mine", "1.0.1",
            description="", parent="1.0.0")  # fmt: skip
    for n in range(10, 35):
        correct(f"{new[0]} {n}")
    correct(known)
    code, _, told = call("--feedback", "--extends", "1.0.1", "--version", "1.1.0")
    assert code == 1 and "26 left out, present" in told
    assert not review.exists()


# --- what a person accepted --------------------------------------------------------------------


@pytest.fixture
def decided(call, new, review):
    """Four corrections: one accepted, one relabelled, one rejected, one not decided."""
    ids = [correct(query) for query in new[:4]]
    assert call(*TO)[0] == 0
    fill(review, ("keep", ""), ("relabel", "goal_planning"), ("drop", ""), ("", ""))
    return ids


def test_accepted_corrections_become_training_rows_on_record(call, new, review, decided):
    before = feedback_file().read_bytes()
    code, output, _ = call(*TO, "--review", review)
    assert code == 0 and "review of 3 rows: 2 added, 1 rejected" in output
    version, old = resolve("mine@1.1.0"), resolve("mine@1.0.0")
    added = load_dataset("mine@1.1.0").train.set_index("id").loc[decided[:2]]
    assert added["query"].tolist() == new[:2]
    assert added["intent"].tolist() == ["tax_planning", "goal_planning"]
    assert set(added["source"]) == {"production_corrections"} and set(added["selection"]) == {
        "hard"
    }
    assert (version.rows, version.parent) == (old.rows + 2, "1.0.0")
    assert version.manifest["holdout"] == old.manifest["holdout"]
    assert version.manifest["sources"] == ["written", "production_corrections"]
    assert "20 % of the new rows that are not hard" in version.manifest["transformation"]
    changes = version.manifest["changes"]
    assert [(c["id"], c["from"], c["to"]) for c in changes] == [
        (decided[0], None, "tax_planning"),
        (decided[1], None, "goal_planning"),
        (decided[2], "tax_planning", None),
    ]
    assert {(c["column"], c["who"]) for c in changes} == {("row", "asha")}
    assert feedback_file().read_bytes() == before


def test_a_second_time_adds_nothing(call, new, review, decided):
    assert call(*TO, "--review", review)[0] == 0
    code, _, told = call(*TO, "--review", review)
    assert code == 1 and "mine@1.1.0 exists and is never edited" in told
    again = ("--feedback", "--extends", "1.1.0", "--version", "1.2.0")
    code, _, told = call(*again, "--review", review)
    assert code == 1 and "2 left out, present" in told
    assert told.endswith(f"error: {feedback_file()} has nothing to add to mine@1.1.0.")
    code, output, told = call(*again, "--json")  # what is left is the one not decided
    assert code == 0 and json.loads(output)["left_out"] == NONE | {"rejected": 1, "present": 2}
    assert f"rejected: line {3}" in told
    [row] = lines(review.with_name("mine@1.1.0.corrections.csv"))
    assert row["id"] == decided[3]


def test_a_review_can_be_added_to_a_version_that_has_a_part_of_it(call, new, review, decided):
    publish(pd.DataFrame({"query": new[:1], "intent": ["tax_planning"]}), "mine", "1.0.1",
            description="", parent="1.0.0")  # fmt: skip
    options = ("--feedback", "--extends", "1.0.1", "--version", "1.1.0", "--review", review)
    code, _, told = call(*options)
    assert code == 0 and "1 left out, present" in told
    changes = resolve("mine@1.1.0").manifest["changes"]
    assert [change["id"] for change in changes] == decided[1:3]


def test_a_draft_is_replaced_by_itself(call, home, make_rows, new, review):
    publish(make_rows(60), "draft", "0.1.0", description="")
    correct(new[0])
    add = ("--feedback", "--extends", "0.1.0", "--version", "0.2.0", "--json")
    runner, path = CliRunner(), review.with_name("draft@0.1.0.corrections.csv")
    assert runner.invoke(data_app, ["add", "draft", *add]).exit_code == 0
    fill(path, ("keep", ""))
    for _ in range(2):
        done = runner.invoke(data_app, ["add", "draft", *add, "--review", str(path)])
        assert done.exit_code == 0 and json.loads(done.stdout)["rows"] == 61


def test_a_file_of_decisions_is_not_overwritten(call, review, decided):
    before = review.read_bytes()
    code, _, told = call(*TO)
    assert code == 1 and "exists and may hold decisions" in told and "rename this one" in told
    assert review.read_bytes() == before


def test_what_comes_in_after_the_decision_does_not_undo_it(call, new, review, decided):
    correct(new[0], "goal_planning")
    assert call(*TO, "--review", review)[0] == 0
    train = load_dataset("mine@1.1.0").train.set_index("query")
    assert train.loc[new[0], "intent"] == "tax_planning"


def test_added_rows_are_never_held_out(call, make_rows, review):
    for query in make_rows(40, seed=7)["query"]:
        correct(query)
    assert call(*TO)[0] == 0
    fill(review, *[("keep", "")] * 40)
    assert call(*TO, "--review", review)[0] == 0
    train = load_dataset("mine@1.1.0").train
    assert (train["source"] == "production_corrections").sum() == 40


@pytest.mark.parametrize(
    ("decision", "reviewer", "message"),
    [
        (("keep", ""), "", "reviewer is empty for "),
        (("drop", ""), "asha", "has nothing to add to mine@1.0.0."),
        (("relabel", "gold"), "asha", "new_label 'gold' is not in the labels"),
        (("", ""), "asha", "none of its 1 rows is decided"),
    ],
)
def test_a_review_that_adds_nothing_publishes_nothing(
    call, home, new, review, decision, reviewer, message
):
    correct(new[0])
    assert call(*TO)[0] == 0
    fill(review, decision, reviewer=reviewer)
    code, _, told = call(*TO, "--review", review)
    assert code == 1 and message in told
    assert not list(home.glob("data/mine/v1.1*"))


def test_a_review_of_corrections_needs_their_file(call, review, decided):
    code, _, told = call("--review", review, "--extends", "1.0.0", "--version", "1.1.0")
    assert code == 1 and "corrections with --feedback" in told


# --- what cannot be done -----------------------------------------------------------------------


def test_without_a_file_there_is_one_clear_error(call):
    code, output, told = call(*TO)
    assert (code, output) == (1, "") and told.count("\n") == 0
    assert told.startswith(f"error: {feedback_file()} does not exist; check the path")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_has_nothing_to_add(call, tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    code, _, told = call(tmp_path / "a.jsonl", *TO)
    assert (code, told) == (1, f"error: {tmp_path / 'a.jsonl'} has nothing to add to mine@1.0.0.")


def test_the_file_of_a_published_version_is_refused(call, home):
    code, _, told = call(home / "data" / "mine" / "v1.0.0" / "mine.json", *TO)
    assert code == 1 and "is the published file of mine@1.0.0" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--extends", "1.0.0", "--version", "1.0.0"], "mine@1.0.0 exists and is never edited"),
        (["--extends", "other@1.0.0", "--version", "1.1.0"], "is another dataset"),
        (["--extends", "3.0.0", "--version", "3.1.0"], "mine has no version 3.0.0"),
    ],
)
def test_a_version_that_cannot_be_is_refused_before_a_person_begins(
    call, new, review, options, message
):
    correct(new[0])
    code, _, told = call("--feedback", *options)
    assert code == 1 and message in told and not review.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "--feedback needs --extends"), (["--extends", "1", "--holdout", "b.csv"], "--holdout")],
)
def test_a_wrong_call_has_code_2(call, options, message):
    code, _, told = call("--feedback", "--version", "1.1.0", *options)
    assert code == 2 and message in " ".join(told.split())
