from __future__ import annotations

import json
import multiprocessing
import os
import subprocess

import pytest

from nivesh_lib import ledger
from nivesh_lib.errors import DataError
from nivesh_lib.ledger import openings, read_ledger, writing

OPENING = {
    "who": "asha", "why": "release 1", "reason": "", "commit": "abc", "model": "tfidf",
    "model_hash": "def", "data": "mine@1.0.0", "sha256": "f" * 64, "rows": 20,
}  # fmt: skip


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path / "data" / "holdout_ledger.jsonl"


def write(**changes):
    with writing() as one:
        return one.append("opening", OPENING | changes)


def edit(path, change):
    lines = path.read_text().splitlines()
    path.write_text("".join(line + "\n" for line in change(lines)))


def git(path, *arguments):
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *name, *arguments], cwd=path.parent.parent, check=True,
                   capture_output=True)  # fmt: skip


def test_lines_come_back_in_order_with_their_ids(path):
    ids = [write(who=name) for name in ("आशा", "b\u2028c", "d\ne")]
    assert [entry["id"] for entry in read_ledger()] == ids
    assert [opening.who for opening in openings()] == ["आशा", "b\u2028c", "d\ne"]
    assert len(path.read_bytes().splitlines()) == 3


def test_without_a_file_nothing_was_opened(path):
    assert openings() == [] and not path.exists()


def test_openings_are_counted_by_data_version_and_by_model_and_carry_their_scores(path):
    first = write()
    write(model_hash="other")
    write(data="mine@1.1.0")
    write()
    with writing() as one:
        one.append("scores", {"opening": first, "scores": {"accuracy": 1}})
    assert [(o.number, o.of_model) for o in openings()] == [(1, 1), (2, 1), (1, 1), (3, 2)]
    assert [o.scores for o in openings()] == [{"accuracy": 1}, None, None, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "line 1: does not follow"),
        (lambda lines: [lines[0], *lines[2:]], "line 2: does not follow"),
        (lambda lines: [lines[1], lines[0], lines[2]], "line 1: does not follow"),
        (lambda lines: [lines[0].replace("asha", "ravi"), *lines[1:]], "line 2: does not follow"),
        (lambda lines: [*lines, lines[0]], "line 4: is there twice"),
        (lambda lines: [*lines, lines[0][:40]], "line 4: is no entry"),
        (lambda lines: [*lines, "[]"], "line 4: is no entry"),
        (lambda lines: [lines[0].replace('"opening"', '"zzz"')], "line 1: is no entry"),
        (lambda lines: [lines[0].replace('"rows": 20', '"rows": "x"')], "line 1: is no entry"),
    ],
)
def test_a_line_that_was_edited_removed_or_moved_is_noticed(path, change, message):
    for name in ("asha", "b", "c"):
        write(who=name)
    edit(path, change)
    with pytest.raises(DataError, match=f"{message}.*git"):
        read_ledger()
    with pytest.raises(DataError, match=message):
        write()


def test_an_opening_has_scores_once_and_after_it(path):
    first = write()
    with writing() as one:
        one.append("scores", {"opening": first, "scores": {"accuracy": 1}})
    for opening in (first, "0" * 64):
        line = {"kind": "scores", "previous": "0" * 64, "timestamp": "", "scores": {}}
        with path.open("a") as file:
            file.write(json.dumps(line | {"opening": opening}) + "\n")
        with pytest.raises(DataError, match="line 3: scores of an opening that is not above it"):
            read_ledger()
        edit(path, lambda lines: lines[:2])


def test_committed_lines_that_are_cut_off_the_end_are_noticed(path):
    write(), write(who="last")
    git(path, "init", "-q")
    git(path, "add", "-A")
    git(path, "commit", "-qm", "two openings")
    write(who="not committed")
    assert len(read_ledger()) == 3
    edit(path, lambda lines: lines[:1])
    with pytest.raises(DataError, match="line 2 of the committed file is edited or gone"):
        read_ledger()
    path.unlink()
    with pytest.raises(DataError, match="line 1 of the committed file"):
        read_ledger()


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_WORK_TREE"])
def test_git_is_asked_about_this_folder_wherever_its_variables_point(path, monkeypatch, variable):
    write(), write(who="last")
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "two openings"]):
        git(path, *arguments)
    (path.parent / "other").mkdir()
    subprocess.run(["git", "init", "-q", path.parent / "other"], check=True)
    monkeypatch.setenv("GIT_DIR", str(path.parent.parent / ".git"))
    write()
    assert len(openings()[-1].git) == 40  # the variable points to this repository
    monkeypatch.setenv(variable, str(path.parent / "other" / ".git"))
    write()
    assert openings()[-1].git.endswith("elsewhere")
    edit(path, lambda lines: lines[:1])
    with pytest.raises(DataError, match="line 2 of the committed file is edited or gone"):
        read_ledger()


def test_a_line_says_where_git_knows_no_ledger(path, monkeypatch):
    write()
    git(path, "init", "-q")
    write()
    git(path, "commit", "-qm", "empty", "--allow-empty")
    write()
    monkeypatch.setenv("PATH", str(path.parent))
    write()
    standings = [opening.git[:9] for opening in openings()]
    assert standings == ["no commit", "no commit", "not in " + openings()[2].git[7:9], "missing"]


def test_lines_of_older_versions_say_nothing_of_git(path):
    first = json.dumps({"kind": "opening", "previous": "0" * 64, "timestamp": "", **OPENING})
    path.parent.mkdir()
    path.write_text(first + "\n")
    write()
    assert [opening.git for opening in openings()] == ["", "no commit"]


def test_a_latency_that_was_measured_again_takes_the_place_of_the_first(path):
    first = write()
    with writing() as one:
        one.append("scores", {"opening": first, "scores": {"accuracy": 1, "p95_ms": 300}})
        one.append("latency", {"opening": first, "scores": {"p95_ms": 3}})
    assert openings()[0].scores == {"accuracy": 1, "p95_ms": 3}


def test_openings_of_two_branches_are_both_kept_by_a_merge(path):
    attributes = path.parent.parent / ".gitattributes"
    attributes.write_text("data/holdout_ledger.jsonl merge=union -text\n")
    write(who="base")
    for arguments in (["init", "-qb", "one"], ["add", "-A"], ["commit", "-qm", "base"]):
        git(path, *arguments)
    for branch in ("two", "one"):
        git(path, "checkout", "-q", *(["-b"] if branch == "two" else []), branch)
        write(who=branch)
        git(path, "commit", "-qam", branch)
    git(path, "merge", "-q", "two")
    assert sorted(opening.who for opening in openings()) == ["base", "one", "two"]
    write(who="after")
    assert len(openings()) == 4


def test_a_last_line_without_its_end_is_not_glued_to_the_next(path):
    write()
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    write(who="b")
    assert [opening.who for opening in openings()] == ["asha", "b"]


def test_a_full_disk_leaves_no_half_line(path, monkeypatch):
    write()
    before = path.read_bytes()

    def half(self, raw):
        self._file.write(raw[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger.Writer, "_write", half)
    with pytest.raises(DataError, match="cannot be written: No space left"):
        write()
    assert path.read_bytes() == before


def test_a_ledger_that_cannot_be_opened_is_one_clear_error(path):
    path.mkdir(parents=True)
    with pytest.raises(DataError, match=r"holdout_ledger\.jsonl cannot be written"):
        write()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_ledger_is_one_clear_error(path):
    write()
    path.chmod(0o444)
    with pytest.raises(DataError, match="cannot be written: Permission denied"):
        write()


def _write_some(name):
    for n in range(10):
        write(who=f"{name}-{n}")


def test_processes_at_once_make_one_sound_ledger(path):
    context = multiprocessing.get_context("fork")
    several = [context.Process(target=_write_some, args=(name,)) for name in "abc"]
    for process in several:
        process.start()
    for process in several:
        process.join(60)
    assert len({opening.who for opening in openings()}) == 30
    previous = [json.loads(line)["previous"] for line in path.read_text().splitlines()]
    assert len(set(previous)) == 30
