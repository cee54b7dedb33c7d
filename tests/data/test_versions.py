from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise

import fsspec
import pandas as pd
import pytest

from nivesh_lib.data.publishing import publish
from nivesh_lib.data.schema import LABELS, normalise
from nivesh_lib.data.versions import DATA_VERSIONS, list_versions, load_dataset, parse_ref, resolve
from nivesh_lib.errors import ChecksumError, DataError, MissingExtra
from tests.conftest import REPOSITORY


@pytest.fixture
def first(home, make_rows):
    """intents@1.0.0: 100 rows, 20 of them held out."""
    return publish(make_rows(100), "intents", "1.0.0", description="first")


def all_rows(version):
    return pd.DataFrame(json.loads((version.folder / f"{version.name}.json").read_text("utf-8")))


def held_out(version):
    rows = all_rows(version)
    return rows[rows["id"].isin(version.manifest["holdout"])]


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "parsed"),
    [
        ("intents", ("intents", None)),
        ("intents@1.1.0", ("intents", "1.1.0")),
        ("out_of_scope@v1.0.0", ("out_of_scope", "1.0.0")),
        ("my-data@0.10.2", ("my-data", "0.10.2")),
    ],
)
def test_references_are_a_name_and_perhaps_a_version(ref, parsed):
    assert parse_ref(ref) == parsed


@pytest.mark.parametrize(
    "ref",
    ["", "@1.0.0", "../x", "/etc", "a/b@1.0.0", "Intents", ".hidden", "a b", "intents\n", "a" * 65]
    + [f"a@{v}" for v in ("", "1", "1.0", "01.0.0", "1.0.0-rc1", "vv1.0.0", "../1.0.0", "1.0.٠")],
)
def test_references_cannot_leave_the_folder(ref):
    with pytest.raises(DataError):
        parse_ref(ref)


def test_label_ids_follow_the_nivesh_order():
    assert len(LABELS) == 14
    assert (LABELS[0], LABELS[13]) == ("affordability_check", "general_question")


# --- loading -----------------------------------------------------------------------------------


def test_a_dataset_is_its_training_rows_with_folds(first):
    data = load_dataset("intents@1.0.0")
    assert list(data.train) == ["id", "query", "intent", "fold"]
    assert data.train.index.tolist() == list(range(80))
    assert sorted(data.train["fold"].unique()) == [0, 1, 2, 3, 4]
    assert (data.n_folds, data.rules_file) == (5, None)


def test_no_held_out_row_is_in_training(first):
    train = load_dataset("intents").train
    assert len(held_out(first)) == 20
    assert not set(train["query"]) & set(held_out(first)["query"])


def test_rules_are_found_beside_the_versions(first):
    (first.folder.parent / "rules.toml").write_text("")
    assert load_dataset("intents").rules_file == str(first.folder.parent / "rules.toml")


def test_a_bare_name_means_the_newest_that_is_no_draft(first, make_rows):
    publish(make_rows(20, seed=1), "intents", "1.10.0", description="", parent="1.0.0")
    publish(make_rows(20, seed=2), "intents", "1.9.0", description="", parent="1.0.0")
    publish(make_rows(50, seed=3), "intents", "0.1.0", description="draft")
    assert resolve("intents").version == "1.10.0"
    assert [v.version for v in list_versions()] == ["0.1.0", "1.0.0", "1.9.0", "1.10.0"]


def test_drafts_alone_must_be_named(home, make_rows):
    publish(make_rows(30), "mine", "0.1.0", description="")
    with pytest.raises(DataError, match=r"drafts only; name one: mine@0\.1\.0"):
        load_dataset("mine")
    assert load_dataset("mine@0.1.0").ref == "mine@0.1.0"


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("other", "no dataset 'other'.* has intents"),
        ("intents@3.0.0", "no version 3.0.0; it has 1"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(first, ref, message):
    with pytest.raises(DataError, match=message):
        load_dataset(ref)


def test_changed_data_are_refused_with_both_hashes(first):
    path = first.folder / "intents.json"
    path.write_bytes(path.read_bytes().replace(b"tax_planning", b"tax_plannin_", 1))
    with pytest.raises(ChecksumError, match=first.sha256) as caught:
        load_dataset("intents")
    assert str(path) in str(caught.value)


def test_a_changed_manifest_is_refused(first):
    edit(first.folder / "manifest.json", holdout=[])
    with pytest.raises(ChecksumError, match=first.manifest["manifest_sha256"]):
        load_dataset("intents")


def test_a_manifest_in_another_folder_is_refused(first):
    first.folder.rename(first.folder.with_name("v2.0.0"))
    with pytest.raises(DataError, match=r"of intents@1\.0\.0, in a folder of intents@2\.0\.0"):
        resolve("intents@2.0.0")


def test_missing_data_are_named_with_their_hash(first):
    (first.folder / "intents.json").unlink()
    with pytest.raises(DataError, match=f"No such file.*{first.sha256}"):
        load_dataset("intents")


def test_a_broken_manifest_is_named(first):
    (first.folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json is no manifest"):
        load_dataset("intents")


def test_rows_can_live_at_a_url(home, make_rows):
    version = publish(make_rows(40), "far", "1.0.0", description="", store="memory://bucket")
    assert version.location == "memory://bucket/far/v1.0.0/far.json"
    assert len(load_dataset("far").train) == 32
    assert [path.name for path in version.folder.iterdir()] == ["manifest.json"]


def test_what_a_killed_publish_uploaded_is_taken_over_and_other_rows_are_not(home, make_rows):
    rows = make_rows(40)
    near = publish(rows, "near", "1.0.0", description="")
    raw = (near.folder / "near.json").read_bytes()
    files = fsspec.filesystem("memory")
    files.pipe_file("/b/near/v1.0.1/near.json", raw)
    files.pipe_file("/b/near/v1.0.2/near.json", b"[]")
    assert publish(rows, "near", "1.0.1", description="", store="memory://b").rows == 40
    with pytest.raises(DataError, match=r"near/v1\.0\.2/near\.json exists and is never edited"):
        publish(rows, "near", "1.0.2", description="", store="memory://b")


def test_changed_rows_at_a_url_are_refused(home, make_rows):
    version = publish(make_rows(40), "far", "1.1.0", description="", store="memory://bucket")
    fsspec.filesystem("memory").pipe_file(version.location, b"[]")
    with pytest.raises(ChecksumError, match="memory://"):
        load_dataset("far")


@pytest.mark.skipif("s3fs" in sys.modules, reason="s3fs is installed")
def test_a_missing_package_is_named_with_its_extra(home, make_rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtra, match=r"pip install 'nivesh-workbench\[s3\]'"):
        publish(make_rows(40), "far", "1.0.0", description="", store="s3://bucket")
    assert list_versions() == []


# --- publishing a first version ----------------------------------------------------------------


def test_the_manifest_describes_the_version(home, make_rows):
    version = publish(
        make_rows(50), "mine", "v1.0.0", description="d", sources=["crm"], licence="CC0-1.0",
        created="2026-01-15",
    )  # fmt: skip
    facts = version.manifest
    assert facts["label_counts"]["train"] == {
        "goal_planning": 13,
        "loan_inquiry": 13,
        "tax_planning": 14,
    }
    assert (facts["rows"], facts["sources"], facts["licence"]) == (50, ["crm"], "CC0-1.0")
    assert (facts["created"], facts["schema_version"], facts["path"]) == (
        "2026-01-15",
        "1.0",
        "mine.json",
    )
    assert facts["cross_split_duplicates"] == {"exact": 0, "near": 0}
    assert sorted(sum(facts["folds"], facts["holdout"])) == sorted(all_rows(version)["id"])


def test_nivesh_labels_come_in_nivesh_order_and_others_by_name(home, make_rows):
    labels = ("zebra", "general_question", "apple", "goal_planning")
    version = publish(make_rows(40, labels=labels), "mine", "1.0.0", description="")
    assert version.labels == ("goal_planning", "general_question", "apple", "zebra")


def test_ids_are_made_from_the_text_and_given_ones_stay(home, make_rows):
    rows = make_rows(40)
    rows["id"] = ["mine-a", *[None] * 39]
    once = publish(rows, "mine", "1.0.0", description="")
    again = publish(rows[::-1], "mine", "1.0.1", description="")
    assert "mine-a" in set(all_rows(once)["id"])
    assert all_rows(once)["id"].str.fullmatch(r"min-[0-9a-f]{8}").sum() == 39
    assert set(all_rows(once)["id"]) == set(all_rows(again)["id"])


def test_near_duplicates_share_side_and_fold(home, make_rows):
    rows = make_rows(120)
    twins = rows.assign(query=rows["query"] + " please")
    version = publish(pd.concat([rows, twins]), "mine", "1.0.0", description="")
    data = load_dataset("mine").train.assign(stem=lambda d: d["query"].str.removesuffix(" please"))
    assert len(version.manifest["holdout"]) == 48
    assert (data.groupby("stem").size() == 2).all()
    assert (data.groupby("stem")["fold"].nunique() == 1).all()


def test_a_given_holdout_is_held_out_exactly_and_its_doubles_are_counted(home, make_rows):
    rows, test = make_rows(60), make_rows(20, seed=1)
    test.loc[0, "query"], test.loc[1, "query"] = rows["query"][0].upper(), rows["query"][4] + "!"
    test.loc[1, "intent"] = rows["intent"][4]
    with pytest.warns(UserWarning, match="1 held-out rows are in training too and 1 nearly so"):
        version = publish(rows, "mine", "1.0.0", description="", holdout_rows=test)
    assert version.manifest["cross_split_duplicates"] == {"exact": 1, "near": 1}
    assert set(held_out(version)["query"]) == set(test["query"])


def test_a_holdout_that_largely_repeats_the_training_rows_is_refused(home, make_rows):
    rows, test = make_rows(60), make_rows(20, seed=1)
    test.loc[4:6, "query"] = rows["query"][4:7].str.upper()
    with pytest.raises(DataError, match=r"^3 of 20 held-out rows \(15\.0%, .*, holdout row 5 \("):
        publish(rows, "mine", "1.0.0", description="", holdout_rows=test)
    assert list_versions() == []


def test_a_tenth_of_repeated_held_out_rows_is_a_warning(home, make_rows):
    rows, test = make_rows(60), make_rows(20, seed=1)
    test.loc[:1, "query"] = rows["query"][:2].str.upper()
    with pytest.warns(UserWarning, match="2 held-out rows are in training too"):
        publish(rows, "mine", "1.0.0", description="", holdout_rows=test)


def test_an_out_of_scope_set_has_kinds_and_unseen_ones_in_its_holdout(home, make_rows):
    choosing = make_rows(20, labels=("chat", "sport"), language="en").rename(
        columns={"intent": "kind"}
    )
    test = make_rows(10, seed=1, labels=("nonsense",)).rename(columns={"intent": "kind"})
    publish(
        choosing, "out_of_scope", "1.0.0", description="", holdout_rows=test, task="out_of_scope"
    )
    data = load_dataset("out_of_scope@1.0.0")
    assert list(data.train) == ["id", "query", "kind", "fold", "language"]
    assert set(data.train["kind"]) == {"chat", "sport"}
    assert set(held_out(resolve("out_of_scope"))["kind"]) == {"nonsense"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": ""}, "row 3: query is missing"),
        ({"intent": None}, "row 3: intent is missing"),
        ({"intent": "x" * 101}, "row 3: intent is longer than 100 characters"),
        ({"id": "same"}, "id occurs twice"),
        ({"created_at": "yesterday"}, "row 3: created_at is no ISO date"),
        ({"selection": "easy"}, "row 3: selection is neither natural nor hard"),
        ({"query": 5}, "row 3: query is not text"),
    ],
)
def test_rows_that_break_the_schema_are_refused(home, make_rows, change, message):
    rows = make_rows(30, id=[f"r{n}" for n in range(30)]).astype(object)
    for column, value in change.items():
        rows.loc[2, column] = value
        rows.loc[7, column] = value if column == "id" else rows[column].get(7)
    with pytest.raises(DataError, match=message):
        publish(rows, "mine", "1.0.0", description="")
    assert list_versions() == []


def test_one_text_with_two_labels_is_refused(home, make_rows):
    rows = make_rows(30)
    rows.loc[4, "query"] = rows["query"][0].upper()
    with pytest.raises(DataError, match=r"row 5 has the text of row 1 but label 'loan_inquiry'"):
        publish(rows, "mine", "1.0.0", description="")


def test_a_label_that_is_only_held_out_is_refused(home, make_rows):
    test = make_rows(5, seed=1, labels=("gold",))
    with pytest.raises(DataError, match=r"holdout row 1 .*'gold' has no training row"):
        publish(make_rows(30), "mine", "1.0.0", description="", holdout_rows=test)


def test_dates_of_several_forms_are_refused(home, make_rows):
    test = make_rows(9, seed=1, created_at="2026-02-01T10:30:00")
    with pytest.raises(DataError, match="holdout row 1: created_at is written unlike the first"):
        publish(make_rows(30, created_at="2026-01-25"), "mine", "1.0.0", description="",
                holdout_rows=test)  # fmt: skip
    publish(make_rows(30, created_at="2026-01-25"), "mine", "1.0.0", description="")
    with pytest.raises(DataError, match=r"row 1: created_at is written unlike the first"):
        publish(test, "mine", "1.1.0", description="", parent="1.0.0")


def test_a_column_that_only_held_out_rows_fill_is_not_in_training(home, make_rows):
    test = make_rows(9, seed=1, created_at="2026-02-01")
    publish(make_rows(30), "mine", "1.0.0", description="", holdout_rows=test)
    assert "created_at" not in load_dataset("mine").train
    assert set(held_out(resolve("mine"))["created_at"]) == {"2026-02-01"}


def test_training_rows_that_are_all_hard_are_refused(home, make_rows):
    natural = make_rows(9, seed=1, selection="natural")
    with pytest.raises(DataError, match=r"row 1 \(min-\w+\) and every other training row have"):
        publish(
            make_rows(30, selection="hard"), "mine", "1.0.0", description="", holdout_rows=natural
        )
    assert list_versions() == []


def test_one_natural_training_row_is_enough_to_publish(home, make_rows):
    rows = make_rows(30, selection=["natural"] + ["hard"] * 29)
    publish(rows, "mine", "1.0.0", description="", holdout_rows=make_rows(9, seed=1))
    assert load_dataset("mine").train["selection"].tolist().count("natural") == 1


def test_a_given_label_without_any_row_is_refused(home, make_rows):
    labels = ("gold", "tax_planning", "loan_inquiry", "goal_planning", "silver")
    with pytest.raises(DataError, match=r"No row has the label 'gold' \(and 1 more\)"):
        publish(make_rows(30), "mine", "1.0.0", description="", labels=labels)
    assert list_versions() == []


def test_kinds_of_an_out_of_scope_set_need_no_training_row(home, make_rows):
    test = make_rows(9, seed=1, labels=("nonsense",))
    publish(
        make_rows(30, selection="hard"), "far", "1.0.0", description="", holdout_rows=test,
        task="out_of_scope", labels=("nonsense", "tax_planning", "loan_inquiry", "goal_planning"),
    )  # fmt: skip
    assert load_dataset("far").labels[0] == "nonsense"


# --- publishing later versions -----------------------------------------------------------------


def test_an_extension_keeps_ids_sides_and_folds(first, make_rows):
    hard, natural = (
        make_rows(40, seed=1, selection="hard"),
        make_rows(10, seed=2, selection="natural"),
    )
    second = publish(hard, "intents", "1.1.0", description="", parent="1.0.0", holdout_rows=natural)
    before, after = load_dataset("intents@1.0.0").train, load_dataset("intents@1.1.0").train
    assert second.manifest["holdout"][:20] == first.manifest["holdout"]
    assert set(held_out(second)["query"]) - set(held_out(first)["query"]) == set(natural["query"])
    assert after[:80][["id", "fold"]].equals(before[["id", "fold"]])
    assert (after["selection"] == "hard").sum() == 40


def test_a_fifth_of_new_natural_rows_is_held_out(first, make_rows):
    new = make_rows(100, seed=1, selection=["hard", "natural"] * 50)
    second = publish(new, "intents", "1.1.0", description="", parent="intents@1.0.0")
    added = set(second.manifest["holdout"]) - set(first.manifest["holdout"])
    assert len(added) == 10
    assert (held_out(second).dropna()["selection"] == "natural").all()


def test_the_rows_of_the_version_before_are_loaded_with_those_of_the_next(first, make_rows):
    new = make_rows(20, seed=1).assign(query=lambda rows: "another " + rows["query"])
    publish(new, "intents", "1.1.0", description="", parent="intents@1.0.0")
    second = load_dataset("intents@1.1.0")
    assert second.parent_rows()["id"].tolist() == load_dataset("intents@1.0.0").train["id"].tolist()
    assert load_dataset("intents@1.0.0").parent_rows() is None


def test_a_new_row_near_a_training_row_joins_its_fold(first, make_rows):
    train = load_dataset("intents").train
    new = train[["query", "intent"]].assign(query=train["query"] + " ok").head(30)
    publish(new, "intents", "1.1.0", description="", parent="1.0.0")
    after = load_dataset("intents@1.1.0").train
    assert len(after) == 110
    assert after["fold"][80:].tolist() == train["fold"][:30].tolist()


def test_a_new_row_near_a_held_out_row_is_refused_by_id_and_number(first, make_rows):
    new = make_rows(5, seed=1)
    victim = held_out(first).iloc[0]
    new.loc[3, ["query", "intent"]] = victim["query"] + " ok", victim["intent"]
    with pytest.raises(
        DataError, match=rf"row 4 \(int-\w+\) is nearly held-out row {victim['id']}"
    ):
        publish(new, "intents", "1.1.0", description="", parent="1.0.0")


def test_a_new_held_out_row_near_a_training_row_is_refused(first, make_rows):
    train = load_dataset("intents").train
    test = train[["query", "intent"]].head(1).assign(query=lambda d: d["query"] + " ok")
    with pytest.raises(DataError, match=r"holdout row 1 .* is nearly training row int-"):
        publish(make_rows(5, seed=1), "intents", "1.1.0", description="", parent="1.0.0",
                holdout_rows=test)  # fmt: skip


def test_a_version_can_add_held_out_rows_only(first, make_rows):
    second = publish(pd.DataFrame(), "intents", "1.1.0", description="", parent="1.0.0",
                     holdout_rows=make_rows(9, seed=1))  # fmt: skip
    assert (second.rows, len(second.manifest["holdout"])) == (109, 29)


def test_a_hard_row_cannot_be_held_out(first, make_rows):
    with pytest.raises(DataError, match="picked by a model"):
        publish(make_rows(5, seed=1), "intents", "1.1.0", description="", parent="1.0.0",
                holdout_rows=make_rows(5, seed=2, selection="hard"))  # fmt: skip


def test_a_row_that_is_there_already_is_refused(first):
    known = load_dataset("intents").train.loc[[5], ["query", "intent"]]
    with pytest.raises(DataError, match=r"row 6 is there already as int-"):
        publish(known, "intents", "1.1.0", description="", parent="1.0.0")


def test_a_text_keeps_its_side_without_a_parent_too(first, make_rows):
    rows = pd.concat([all_rows(first)[["query", "intent"]], make_rows(50, seed=1)])
    second = publish(rows, "intents", "2.0.0", description="")
    train = load_dataset("intents@2.0.0").train
    assert set(held_out(first)["query"]) <= set(held_out(second)["query"])
    assert set(load_dataset("intents@1.0.0").train["query"]) <= set(train["query"])
    assert len(held_out(second)) == 30


def test_a_trained_text_cannot_be_put_into_a_test_file(first, make_rows):
    test = load_dataset("intents").train[["query", "intent"]].head(3)
    with pytest.raises(
        DataError, match=r"holdout row 1 .* trained on in an earlier.*\(and 2 more\)"
    ):
        publish(make_rows(30, seed=1), "intents", "2.0.0", description="", holdout_rows=test)


@pytest.mark.parametrize(
    ("version", "parent", "message"),
    [
        ("1.0.0", None, "exists and is never edited"),
        ("0.9.9", "1.0.0", "not newer than 1.0.0, its parent"),
        ("1.0.1", "1.5.0", "no version 1.5.0"),
        ("1.0.1", "other@1.0.0", "is another dataset"),
        ("one", None, "no version of the form 1.0.0"),
    ],
)
def test_versions_that_make_no_sense_are_refused(first, make_rows, version, parent, message):
    with pytest.raises(DataError, match=message):
        publish(make_rows(30, seed=1), "intents", version, description="", parent=parent)
    assert [v.version for v in list_versions()] == ["1.0.0"]


def test_an_older_number_needs_a_parent_to_branch_from(first, make_rows):
    publish(make_rows(30, seed=1), "intents", "2.0.0", description="")
    with pytest.raises(DataError, match=r"not newer than 2\.0\.0, the newest; .*--extends"):
        publish(make_rows(30, seed=2), "intents", "1.0.1", description="")
    assert (
        publish(make_rows(9, seed=2), "intents", "1.0.1", description="", parent="1.0.0").rows
        == 109
    )


def test_drafts_are_replaced_unless_something_extends_them(home, make_rows):
    publish(make_rows(30), "mine", "0.1.0", description="old")
    assert publish(make_rows(40), "mine", "0.1.0", description="new").rows == 40
    publish(make_rows(20, seed=1), "mine", "0.2.0", description="", parent="0.1.0")
    with pytest.raises(DataError, match=r"is the parent of 0\.2\.0"):
        publish(make_rows(40), "mine", "0.1.0", description="")


def test_new_labels_need_a_major_number(first, make_rows):
    new = make_rows(30, seed=1, labels=("gold", "tax_planning"))
    with pytest.raises(DataError, match=r"'gold' is new\. .*publish version 2\.0\.0"):
        publish(new, "intents", "1.1.0", description="", parent="1.0.0")
    assert publish(new, "intents", "2.0.0", description="", parent="1.0.0").labels == (
        *first.labels,
        "gold",
    )


def test_new_kinds_of_queries_out_of_scope_need_a_minor_number_only(home, make_rows):
    of = {"description": "", "task": "out_of_scope"}
    publish(make_rows(20, labels=("chat",)), "far", "1.0.0", **of,
            holdout_rows=make_rows(9, seed=1, labels=("nonsense",)))  # fmt: skip
    more, held = (
        make_rows(9, seed=n, labels=(kind,)) for n, kind in ((2, "shop"), (3, "tax_office"))
    )
    second = publish(more, "far", "1.1.0", **of, parent="1.0.0", holdout_rows=held)
    assert list(second.labels) == ["chat", "nonsense", "shop", "tax_office"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("tax_planning", "loan_inquiry"), "'goal_planning', not among the labels given"),
        (("tax_planning", "loan_inquiry", "goal_planning"), "their order differs"),
        (("goal_planning", "tax_planning", "loan_inquiry", "x"), "'x' is new"),
        (("tax_planning", "tax_planning"), "twice"),
    ],
)
def test_given_labels_must_fit(first, make_rows, labels, message):
    with pytest.raises(DataError, match=message):
        publish(make_rows(30, seed=1), "intents", "1.1.0", description="", labels=labels)


def test_an_extension_cannot_name_a_label_without_a_training_row(first, make_rows):
    with pytest.raises(DataError, match="No row has the label 'gold'"):
        publish(make_rows(9, seed=1), "intents", "2.0.0", description="", parent="1.0.0",
                labels=(*first.labels, "gold"))  # fmt: skip
    assert [v.version for v in list_versions()] == ["1.0.0"]


def test_a_label_that_is_gone_needs_a_major_number(first, make_rows):
    rows = make_rows(30, seed=1, labels=("tax_planning", "loan_inquiry"))
    with pytest.raises(DataError, match="'goal_planning' is gone"):
        publish(rows, "intents", "1.1.0", description="")


# --- whole or not at all -----------------------------------------------------------------------

SCRIPT = """
import os, signal, sys
import pandas as pd
from pathlib import Path
from nivesh_lib import files
from nivesh_lib.data import publishing

calls = 0
def die_at(function, number):
    def wrapped(*args, **kwargs):
        global calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped

stage, number = sys.argv[1].split(":")
if stage == "sync":
    files.sync = die_at(files.sync, int(number))
if stage == "rename":
    Path.rename = die_at(Path.rename, int(number))
rows = pd.DataFrame({"query": sys.argv[3:], "intent": ["a", "b"] * (len(sys.argv[3:]) // 2)})
publishing.publish(rows, "mine", sys.argv[2], description="")
"""


def publish_in_a_process(stage, version, rows):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, stage, version, *rows["query"]])


@pytest.mark.parametrize("stage", ["sync:1", "rename:1"])
def test_a_killed_publish_leaves_nothing_visible(home, make_rows, stage):
    process = publish_in_a_process(stage, "1.0.0", make_rows(20))
    assert process.wait() == -signal.SIGKILL
    assert list_versions() == []
    publish(make_rows(20), "mine", "1.0.0", description="")
    assert [path.name for path in (home / "data" / "mine").iterdir()] == ["v1.0.0"]


def test_a_draft_whose_replacement_was_killed_comes_back(home, make_rows):
    publish(make_rows(30), "mine", "0.1.0", description="")
    assert publish_in_a_process("rename:2", "0.1.0", make_rows(20)).wait() == -signal.SIGKILL
    publish(make_rows(20, seed=1), "mine", "0.2.0", description="")
    assert [(v.version, v.rows) for v in list_versions()] == [("0.1.0", 30), ("0.2.0", 20)]


def test_of_two_publishers_one_wins(home, make_rows):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "none:0", "1.0.0", *make_rows(20, seed=n)["query"]],
            stderr=subprocess.PIPE,
        )
        for n in (1, 2)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 1]
    assert b"exists and is never edited" in b"".join(errors)
    assert len(load_dataset("mine").train) == 16


def test_a_refused_publish_leaves_no_file(home, make_rows):
    with pytest.raises(DataError):
        publish(make_rows(1), "mine", "1.0.0", description="")
    assert not (home / "data" / "mine").exists()


def test_the_seeds_view_shows_the_intents_versions(first):
    assert dict(DATA_VERSIONS) == {
        "v1.0.0": {
            "path": "data/intents/v1.0.0/intents.json",
            "size": 100,
            "created": first.manifest["created"],
            "description": "first",
            "schema_version": "1.0",
            "sources": [],
        }
    }
    assert "v9.0.0" not in DATA_VERSIONS


# --- the shipped versions ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "parent"),
    [
        ("intents@1.0.0", None),
        ("intents@1.1.0", "1.0.0"),
        ("intents@1.2.0", "1.1.0"),
        ("out_of_scope@1.0.0", None),
        ("out_of_scope@1.1.0", "1.0.0"),
    ],
)
def test_publishing_shipped_rows_again_makes_the_same_split_and_folds(
    home, monkeypatch, ref, parent
):
    monkeypatch.delenv("NIVESH_HOME")
    shipped = resolve(ref)
    older = resolve(f"{shipped.name}@{parent}") if parent else None
    rows, held = all_rows(shipped), set(shipped.manifest["holdout"])
    monkeypatch.setenv("NIVESH_HOME", str(home))
    given = None
    if older:
        shutil.copytree(older.folder, home / "data" / older.name / older.folder.name)
        rows = rows[~rows["id"].isin(all_rows(older)["id"])]
    if "holdout given" in shipped.manifest["transformation"]:
        given = rows[rows["id"].isin(held)]
        rows = rows[~rows["id"].isin(held)]
    again = publish(
        rows,
        shipped.name,
        shipped.version,
        description="again",
        labels=shipped.labels,
        parent=parent,
        holdout_rows=given,
        task=shipped.manifest["task"],
    )
    for fact in ("holdout", "folds", "label_counts", "cross_split_duplicates"):
        assert again.manifest[fact] == shipped.manifest[fact]


@pytest.mark.parametrize("name", ["intents", "out_of_scope"])
def test_what_one_shipped_version_holds_out_no_other_trains_on(monkeypatch, name):
    monkeypatch.delenv("NIVESH_HOME", raising=False)
    versions = [version for version in list_versions() if version.name == name]
    held = [set(held_out(version)["query"].map(normalise)) for version in versions]
    trained = [set(load_dataset(v.ref).train["query"].map(normalise)) for v in versions]
    assert len(versions) > 1 and all(before < after for before, after in pairwise(held))
    assert not set.union(*held) & set.union(*trained)


def test_the_held_out_kinds_of_queries_out_of_scope_occur_nowhere_else(monkeypatch):
    monkeypatch.delenv("NIVESH_HOME", raising=False)
    counts = resolve("out_of_scope@1.1.0").manifest["label_counts"]
    assert len(counts["train"]) == 9 and not set(counts["train"]) & set(counts["holdout"])


CARD = REPOSITORY / "data" / "intents" / "README.md"


def test_the_tables_of_the_card_are_those_of_the_newest_intents(monkeypatch):
    monkeypatch.delenv("NIVESH_HOME", raising=False)
    text, versions = CARD.read_text("utf-8"), [v for v in list_versions() if v.name == "intents"]
    for version in versions:
        held = len(version.manifest["holdout"])
        sizes = f"| {version.version} | {version.rows:,} | {version.rows - held:,} | {held:,} |"
        assert sizes in text
    rows = all_rows(versions[-1])
    counts = {
        f"{column} {value}": n
        for column in ("income_segment", "language", "traits")
        for value, n in rows[column].dropna().str.split().explode().value_counts().items()
    }
    found = re.findall(r"^\| (\w+ \w+) \| (\d+) \((\d+) %\) \|$", text, flags=re.MULTILINE)
    assert f"| | of {len(rows):,} rows |" in text
    assert found == [
        (name, str(n), f"{100 * n / len(rows):.0f}") for name, n in sorted(counts.items())
    ]


# --- what a file of hostile content or an unlucky moment leaves --------------------------------


def test_a_draft_whose_replacement_was_killed_between_two_renames_is_seen(home, make_rows):
    draft = publish(make_rows(30), "mine", "0.1.0", description="first")
    draft.folder.rename(draft.folder.with_name(".v0.1.0.old"))
    assert [version.ref for version in list_versions()] == ["mine@0.1.0"]
    assert resolve("mine@0.1.0").sha256 == draft.sha256


@pytest.mark.parametrize("name", ["manifest.json", "mine.json"])
def test_a_file_of_a_version_that_is_a_device_is_refused_at_once(home, make_rows, name):
    version = publish(make_rows(30), "mine", "1.0.0", description="first")
    (version.folder / name).unlink()
    os.mkfifo(version.folder / name)
    with pytest.raises(DataError, match=r"manifest\.json is no manifest|no regular file"):
        load_dataset("mine@1.0.0")


def test_a_manifest_nested_too_deeply_is_refused(home, make_rows):
    version = publish(make_rows(30), "mine", "1.0.0", description="first")
    (version.folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="is no manifest"):
        resolve("mine@1.0.0")


@pytest.mark.parametrize("column", ["query", "intent", "source"])
def test_half_a_surrogate_pair_in_a_row_is_named(home, make_rows, column):
    rows = make_rows(30, source="me").astype(object)
    rows.loc[2, column] = "half \ud83d"
    with pytest.raises(DataError, match=f"row 3: {column} holds NUL or half a surrogate pair"):
        publish(rows, "mine", "1.0.0", description="x")


def test_half_a_surrogate_pair_in_a_description_is_refused(home, make_rows):
    with pytest.raises(DataError, match="half a surrogate pair"):
        publish(make_rows(30), "mine", "1.0.0", description="\udcff")
    assert not list_versions()
