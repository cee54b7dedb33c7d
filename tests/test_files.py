from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nivesh_lib import files
from nivesh_lib.errors import DataError
from nivesh_lib.files import (
    append_line,
    atomic_path,
    freed_bytes,
    link_equal,
    locked,
    new_file,
    restore_folder,
    restore_folders,
    sha256_file,
    stored_bytes,
    write_folder,
    write_text,
)

DIE = """
import os, signal, sys
from pathlib import Path
from nivesh_lib.files import atomic_path, new_file, write_folder

call, target, renames = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

def rename(*arguments, original=Path.rename):
    global renames
    renames -= 1
    if not renames:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

Path.rename = Path.replace = rename
if call == "write_folder":
    write_folder(target, {"a": b"new"})
else:
    with atomic_path(target) as partial:
        partial.write_bytes(b"new")
"""
HOLD = """
import sys
from pathlib import Path
from nivesh_lib.files import locked

with locked(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.read()
"""

APPEND = """
import os, resource, sys
from pathlib import Path
from nivesh_lib.files import append_line

path, limit, *lines = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
for line in lines:
    try:
        append_line(Path(path), line.encode())
    except OSError as error:
        print(error.errno)
"""
HALF = """
import os, signal, sys
from pathlib import Path
from nivesh_lib import files

def die(number):
    os.ftruncate(number, 6)  # as if only these had reached the disk
    os.kill(os.getpid(), signal.SIGKILL)

os.fsync = die
files.append_line(Path(sys.argv[1]), b"second")
"""


def killed(call, target, renames):
    done = subprocess.run([sys.executable, "-c", DIE, call, str(target), str(renames)], check=False)
    return done.returncode == -signal.SIGKILL


@pytest.fixture
def held(tmp_path):
    """Have another process lock ``tmp_path``, shared or not."""
    processes = []

    def hold(kind):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checksum_is_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"\x00a\n")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"\x00a\n").hexdigest()


# --- locks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "shared", "free"),
    [("shared", True, True), ("shared", False, False), ("exclusive", True, False)],
)
def test_only_holders_of_shared_locks_go_together(tmp_path, held, theirs, shared, free):
    held(theirs)
    if free:
        with locked(tmp_path, shared=shared, wait=False):
            pass
    else:
        with pytest.raises(BlockingIOError), locked(tmp_path, shared=shared, wait=False):
            pass


def test_a_lock_ends_with_its_process_and_leaves_no_file(tmp_path, held):
    held("exclusive").kill()
    with locked(tmp_path):
        assert names(tmp_path) == []


def test_only_what_exists_can_be_locked(tmp_path):
    with pytest.raises(FileNotFoundError), locked(tmp_path / "none"):
        pass


# --- files -------------------------------------------------------------------------------------


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    target = tmp_path / "folder" / "a.txt"
    with pytest.raises(KeyError), atomic_path(target) as partial:
        partial.write_text("half")
        raise KeyError
    assert names(target.parent) == []
    write_text(target, "whole ₹")
    with pytest.raises(KeyError), atomic_path(target) as partial:
        partial.write_text("half")
        raise KeyError
    assert target.read_text(encoding="utf-8") == "whole ₹" and names(target.parent) == ["a.txt"]


def test_half_a_surrogate_pair_does_not_stop_a_file(tmp_path):
    write_text(tmp_path / "a.txt", "a\ud800b")
    assert (tmp_path / "a.txt").read_bytes() == b"a?b"


def test_a_process_that_is_killed_before_the_rename_changes_nothing(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    assert killed("atomic_path", tmp_path / "a.txt", 1)
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_file_that_exists_stays_unless_it_may_be_replaced(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(DataError, match="--overwrite"), new_file(tmp_path / "a.txt"):
        pass
    with new_file(tmp_path / "a.txt", replace=True) as file:
        file.write("new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_link_stays_a_link_and_one_that_leads_nowhere_is_refused(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    link.symlink_to(real)
    with pytest.raises(DataError, match="leads nowhere"), new_file(link):
        pass
    real.write_text("old")
    with new_file(link, replace=True) as file:
        file.write("new")
    assert link.is_symlink() and real.read_text() == "new"


def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt cannot be written: No space"):  # noqa: SIM117
        with new_file(tmp_path / "a.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_a_folder_that_is_missing_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(DataError, match="cannot be written"), new_file(tmp_path / "x" / "a.txt"):
        pass


def test_a_file_that_appears_meanwhile_is_kept_and_so_is_the_new_one(tmp_path):
    target = tmp_path / "a.txt"
    with pytest.raises(DataError, match="appeared meanwhile"), new_file(target) as file:
        file.write("answers")
        target.write_text("mine")
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["answers", "mine"]
    assert target.read_text() == "mine"


def test_where_files_cannot_be_linked_the_new_one_is_renamed(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    with new_file(tmp_path / "a.txt") as file:
        file.write("answers")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["answers"]


# --- folders -----------------------------------------------------------------------------------


def test_a_folder_is_made_and_replaced_whole(tmp_path):
    write_folder(tmp_path / "m", {"a": b"1", "b": b"2"})
    write_folder(tmp_path / "m", {"a": b"3"})
    assert names(tmp_path) == ["m"] and names(tmp_path / "m") == ["a"]
    assert (tmp_path / "m" / "a").read_bytes() == b"3"
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o755


def test_a_folder_whose_replacement_fails_comes_back(tmp_path, monkeypatch):
    write_folder(tmp_path / "m", {"a": b"old"})
    rename = files.Path.rename

    def fail(self, target):
        if ".new-" in self.name:
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(files.Path, "rename", fail)
    with pytest.raises(OSError, match="broken"):
        write_folder(tmp_path / "m", {"a": b"new"})
    assert (tmp_path / "m" / "a").read_bytes() == b"old" and names(tmp_path) == ["m"]


@pytest.mark.parametrize("renames", [1, 2])
@pytest.mark.parametrize("restore", [restore_folder, lambda target: restore_folders(target.parent)])
def test_a_process_that_is_killed_at_a_rename_loses_no_folder(tmp_path, renames, restore):
    target = tmp_path / "v1.0.0"
    write_folder(target, {"a": b"old"})
    write_folder(tmp_path / "v1.0.1", {"a": b"other"})
    assert killed("write_folder", target, renames)
    assert target.exists() is (renames == 1) and len(names(tmp_path)) == 3
    restore(target)
    assert (target / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["v1.0.0", "v1.0.1"]


def test_a_killed_replacement_does_not_stop_the_next(tmp_path):
    target = tmp_path / "m"
    write_folder(target, {"a": b"old"})
    assert killed("write_folder", target, 2)
    write_folder(target, {"a": b"new"})
    restore_folder(target)
    assert (target / "a").read_bytes() == b"new" and names(tmp_path) == ["m"]


@pytest.fixture
def four(tmp_path):
    """Four files: a and b are equal, c has another content of that size, d is empty."""
    found = {name: tmp_path / name for name in "abcd"}
    for name, text in (("a", "same"), ("b", "same"), ("c", "else"), ("d", "")):
        found[name].write_text(text)
    return found


def test_equal_files_are_stored_once_and_others_stay(four):
    assert stored_bytes(four.values()) == 12
    link_equal(four.values())
    assert four["a"].samefile(four["b"]) and not four["a"].samefile(four["c"])
    assert stored_bytes(four.values()) == 8
    assert [path.read_text() for path in four.values()] == ["same", "same", "else", ""]


def test_only_the_files_given_are_replaced(four):
    numbers = {name: path.stat().st_ino for name, path in four.items()}
    link_equal([four["a"]], among=[four["b"], four["a"].with_name("missing")])
    assert four["a"].stat().st_ino == numbers["b"] == four["b"].stat().st_ino


def test_what_is_a_link_already_stays_one(four):
    link_equal([four["a"], four["b"]])
    new = four["a"].with_name("0")  # which comes first
    new.write_text("same")
    link_equal([new, four["a"], four["b"]])
    assert stored_bytes([new, four["a"], four["b"]]) == 4


def test_what_is_written_to_one_name_does_not_reach_the_other(four):
    link_equal(four.values())
    write_text(four["a"], "new")
    assert four["b"].read_text() == "same"


def test_without_links_the_files_stay_as_they_are(four, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "link", refuse)
    link_equal(four.values())
    assert stored_bytes(four.values()) == 12
    assert sorted(path.name for path in four["a"].parent.iterdir()) == list("abcd")


def test_bytes_are_freed_with_the_last_link_only(four):
    link_equal(four.values())
    assert freed_bytes([four["a"]]) == 0
    assert freed_bytes([four["a"], four["b"], four["c"]]) == 8


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_unfinished_files_are_removed_when_their_process_is_dead(tmp_path, dead):
    live = tmp_path / f".a.txt.{os.getppid()}.partial"
    left = [tmp_path / f".a.txt.{dead}.partial", tmp_path / f".model.x1y2.{dead}.partial" / "f"]
    left.append(tmp_path / "below" / f".b.json.{dead}.partial")
    left.append(tmp_path / f".mlflow.db.{dead}.partial-journal")
    others = [tmp_path / ".partial", tmp_path / f"c.{dead}.partial"]
    for path in (live, *left, *others):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    files.remove_abandoned(tmp_path, name="model", deep=False)
    assert not left[1].parent.exists() and left[0].exists()
    files.remove_abandoned(tmp_path)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in (live, *others))


def test_a_file_is_written_where_a_killed_process_left_an_unfinished_one(tmp_path, dead):
    (tmp_path / f".a.txt.{dead}.partial").write_text("hal")
    with new_file(tmp_path / "a.txt") as file:
        file.write("whole")
    assert names(tmp_path) == ["a.txt"]


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "x").write_text("a file")
    with pytest.raises(DataError, match=r"x is a file, and a folder is needed there"):  # noqa: SIM117
        with files.locked_folder(tmp_path / "x" / "y"):
            pass


# --- lines -------------------------------------------------------------------------------------


def test_lines_are_appended_to_a_file_that_need_not_be_there(tmp_path):
    file = tmp_path / "new" / "a.jsonl"
    for line in (b"first", "₹".encode(), b""):
        append_line(file, line)
    assert file.read_bytes() == "first\n₹\n\n".encode()


def test_processes_may_append_at_the_same_time(tmp_path):
    file = tmp_path / "a.jsonl"
    sent = [[f"{n}-{k}-" + "x" * 5_000 for k in range(20)] for n in range(4)]
    started = [subprocess.Popen([sys.executable, "-c", APPEND, file, "0", *one]) for one in sent]
    assert [process.wait() for process in started] == [0] * 4
    assert sorted(file.read_text().splitlines()) == sorted(line for one in sent for line in one)


def test_a_line_waits_for_the_lock_of_another_process(tmp_path):
    file = tmp_path / "a.jsonl"
    file.touch()
    with locked(file):
        process = subprocess.Popen([sys.executable, "-c", APPEND, file, "0", "late"])
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        assert file.read_bytes() == b""
    assert process.wait() == 0 and file.read_bytes() == b"late\n"


def test_a_line_that_a_killed_process_left_unfinished_is_ended_first(tmp_path):
    file = tmp_path / "a.jsonl"
    append_line(file, b"one")
    done = subprocess.run([sys.executable, "-c", HALF, file], check=False)
    assert done.returncode == -signal.SIGKILL and file.read_bytes() == b"one\nse"
    append_line(file, b"third")
    assert file.read_bytes() == b"one\nse\nthird\n"


@pytest.mark.parametrize("limit", [8, 4])  # within the line, and before it
def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path, limit):
    file = tmp_path / "a.jsonl"
    append_line(file, b"one")
    call = [sys.executable, "-c", APPEND, file, str(limit), "too long", "more"]
    told = subprocess.run(call, capture_output=True, text=True, check=True).stdout.split()
    assert len(told) == 2 and set(map(int, told)) <= {errno.ENOSPC, errno.EFBIG}
    assert file.read_bytes() == b"one\n"
    append_line(file, b"two")
    assert file.read_bytes() == b"one\ntwo\n"


def test_a_full_disk_is_named_as_the_reason():
    with pytest.raises(OSError, match="No space left on device"):
        append_line(Path("/dev/full"), b"line")


def test_a_line_that_could_not_be_synced_is_taken_back(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    append_line(file, b"one")

    def fail(number):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="broken"):
        append_line(file, b"two")
    assert file.read_bytes() == b"one\n"


def test_the_name_of_a_new_file_is_synced_too(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync", synced.append)
    append_line(tmp_path / "a.jsonl", b"one")
    append_line(tmp_path / "a.jsonl", b"two")
    assert synced == [tmp_path]


@pytest.mark.parametrize("folder", ["taken", "/proc"])
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, folder):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError, match=r"a\.jsonl|taken|/proc"):
        append_line(tmp_path / folder / "a.jsonl", b"one")
    assert (tmp_path / "taken").read_text() == "a file"
