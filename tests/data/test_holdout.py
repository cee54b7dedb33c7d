"""The door to held-out rows; that nothing else leads to them is in tests/test_holdout_guard.py."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pandas as pd
import pytest

from nivesh_lib import hash_chain, ledger
from nivesh_lib.data.holdout import check_opening, open_holdout, record_scores
from nivesh_lib.data.importing import read_rows
from nivesh_lib.data.publishing import publish
from nivesh_lib.data.reading import read_queries, refuse_published
from nivesh_lib.data.validation import validate_intent_data
from nivesh_lib.errors import ChecksumError, DataError, HoldoutError
from nivesh_lib.ledger import openings

ENTRY = {"who": "asha", "why": "release 1", "commit": "abc", "model_hash": "def"}


@pytest.fixture
def first(home, make_rows):
    """intents@1.0.0: 100 rows, 20 of them held out."""
    return publish(make_rows(100), "intents", "1.0.0", description="first")


def test_opening_gives_the_rows_and_writes_the_ledger(first):
    opened = open_holdout("intents@1.0.0", **ENTRY, model="tfidf")
    [entry] = openings()
    assert set(opened.rows["id"]) == set(first.manifest["holdout"])
    assert (entry.data, entry.rows, entry.sha256) == ("intents@1.0.0", 20, first.sha256)
    assert (entry.who, entry.model, entry.timestamp[-6:]) == ("asha", "tfidf", "+00:00")
    assert opened.opening == entry


def test_personal_data_in_reasons_does_not_reach_the_ledger(first):
    entry = {**ENTRY, "why": "asked by asha [at] example [dot] com", "reason": "call 98765/43210"}
    opening = open_holdout("intents", **entry).opening
    assert (opening.why, opening.reason) == ("asked by [EMAIL]", "call [PHONE]")


def test_rows_come_with_their_columns_and_without_side_and_fold(first):
    assert list(open_holdout("intents", **ENTRY).rows) == ["id", "query", "intent"]


def test_held_out_rows_of_an_out_of_scope_set_have_kinds(home, make_rows):
    test = make_rows(10, seed=1, labels=("nonsense",))
    publish(make_rows(20), "far", "1.0.0", description="", holdout_rows=test, task="out_of_scope")
    assert set(open_holdout("far", **ENTRY).rows["kind"]) == {"nonsense"}


@pytest.mark.parametrize("missing", ENTRY)
def test_it_stays_closed_without_a_complete_entry(first, missing):
    with pytest.raises(HoldoutError, match=f"{missing} is empty"):
        open_holdout("intents", **{**ENTRY, missing: " "})
    assert openings() == []


def test_the_ledger_is_on_disk_before_rows_come(first, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hash_chain.os, "fsync", fail)
    with pytest.raises(DataError, match="No space left"):
        open_holdout("intents", **ENTRY)
    assert openings() == []


def test_rows_that_were_tampered_with_are_refused_before_the_ledger(first):
    path = first.folder / "intents.json"
    path.write_bytes(path.read_bytes().replace(b"tax_planning", b"tax_plannin_", 1))
    with pytest.raises(ChecksumError, match=first.sha256):
        open_holdout("intents", **ENTRY)
    assert openings() == []


def test_a_version_that_holds_nothing_out_cannot_be_opened(home, make_rows):
    none = pd.DataFrame({"query": [], "intent": []}, dtype="str")
    publish(make_rows(30), "open", "1.0.0", description="", holdout_rows=none)
    with pytest.raises(HoldoutError, match="no held-out rows"):
        open_holdout("open", **ENTRY)


@pytest.mark.parametrize("door", [open_holdout, check_opening])
def test_a_second_opening_for_the_same_model_needs_a_reason(first, door):
    open_holdout("intents", **ENTRY)
    entry = ENTRY if door is open_holdout else {"model_hash": "def"}
    with pytest.raises(HoldoutError, match=r"was opened for model def before.*--reason"):
        door("intents", **entry, reason=" ")
    door("intents", **entry, reason="labels were corrected")
    assert len(openings()) == (2 if door is open_holdout else 1)


def test_openings_are_counted_by_version_and_by_model(first, make_rows):
    publish(make_rows(20, seed=1), "intents", "1.1.0", description="", parent="1.0.0")
    open_holdout("intents@1.0.0", **ENTRY)
    open_holdout("intents@1.0.0", **ENTRY | {"model_hash": "other"})
    open_holdout("intents@1.1.0", **ENTRY)
    last = open_holdout("intents@1.0.0", **ENTRY, reason="again").opening
    assert (last.number, last.of_model, last.reason) == (3, 2, "again")


def test_of_openings_at_once_for_one_model_one_goes_through(first):
    def attempt(_):
        try:
            return len(open_holdout("intents", **ENTRY).rows)
        except HoldoutError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(attempt, range(8))) == [0] * 7 + [20]
    assert len(openings()) == 1


def test_scores_are_recorded_once_for_an_opening_that_is_there(first):
    opening = open_holdout("intents", **ENTRY).opening
    record_scores(opening, {"accuracy": {"value": 0.5}})
    assert openings()[0].scores == {"accuracy": {"value": 0.5}}
    with pytest.raises(HoldoutError, match="has its scores already"):
        record_scores(opening, {})
    ledger.ledger_path().unlink()
    with pytest.raises(HoldoutError, match="is not in the ledger"):
        record_scores(opening, {})


KILLED = """
import os, signal, sys
from nivesh_lib.data.holdout import open_holdout
open_holdout("intents", who="a", why="b", commit="c", model_hash="d")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_before_it_has_scores_leaves_the_opening(first):
    assert subprocess.run([sys.executable, "-c", KILLED]).returncode == -signal.SIGKILL
    assert [opening.scores for opening in openings()] == [None]
    with pytest.raises(HoldoutError, match="no scores: it is still judging, or ended before"):
        check_opening("intents", model_hash="d")


def test_an_edited_ledger_keeps_the_holdout_closed(first):
    for n in range(2):
        open_holdout("intents", **ENTRY | {"model_hash": str(n)})
    path = ledger.ledger_path()
    path.write_text(path.read_text().replace('"model_hash": "0"', '"model_hash": "9"'))
    with pytest.raises(DataError, match="git checkout"):
        open_holdout("intents", **ENTRY)


def test_a_notebook_cannot_open_it(first, monkeypatch):
    kernel = SimpleNamespace(IPKernelApp=SimpleNamespace(initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", kernel)
    with pytest.raises(HoldoutError, match="stays closed to notebooks"):
        open_holdout("intents", **ENTRY)
    assert openings() == []


@pytest.mark.parametrize(
    "read", [read_rows, read_queries, lambda path: validate_intent_data(str(path))]
)
def test_the_published_file_is_not_read_as_a_plain_one(first, tmp_path, read):
    path = first.folder / "intents.json"
    (tmp_path / "link.json").symlink_to(path)
    (tmp_path / "hard.json").hardlink_to(path)
    (tmp_path / "both.json").symlink_to(tmp_path / "hard.json")
    for place in (path, *(tmp_path / f"{name}.json" for name in ("link", "hard", "both"))):
        with pytest.raises(HoldoutError, match=r"published file of intents@1\.0\.0"):
            read(place)


@pytest.mark.parametrize("gone", [False, True])
def test_the_published_file_is_not_read_through_a_process_that_has_it_open(first, tmp_path, gone):
    (tmp_path / "hard.txt").hardlink_to(first.folder / "intents.json")
    with (tmp_path / "hard.txt").open() as file:
        (tmp_path / "open.txt").symlink_to(f"/proc/self/fd/{file.fileno()}")
        if gone:
            (tmp_path / "hard.txt").unlink()
        with pytest.raises(HoldoutError, match="published file"):
            read_queries(tmp_path / "open.txt")
        with pytest.raises(HoldoutError, match="standard input is the published file"):
            refuse_published("standard input", file.fileno())


def test_a_version_that_holds_nothing_out_is_a_plain_file_under_any_name(home, make_rows):
    none = pd.DataFrame({"query": [], "intent": []}, dtype="str")
    whole = publish(make_rows(30), "open", "1.0.0", description="", holdout_rows=none)
    (home / "hard.json").hardlink_to(whole.folder / "open.json")
    assert len(read_rows(home / "hard.json")) == 30


def test_a_file_beside_a_manifest_of_something_else_is_a_plain_one(first, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text((first.folder / "intents.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({"path": "rows.json"}))
    assert len(read_rows(path)) == 100
