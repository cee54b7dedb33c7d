"""Whether tampering with the holdout ledger is noticed; the ways are in ledger_tamperings.py."""

from __future__ import annotations

import os
import signal

import pytest

from nivesh_lib.errors import DataError
from nivesh_lib.ledger import openings, read_ledger
from tests.ledger_tamperings import SAID, SEEN, UNSEEN, append, prepare


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A ledger as `prepare` makes it; whatever waits for five seconds is stopped."""
    monkeypatch.setenv("NIVESH_HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    path = prepare(tmp_path)

    def stop(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(5)
    yield path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("how", SEEN)
def test_what_was_done_to_the_ledger_is_seen_by_whoever_reads_or_writes_it(path, how):
    if how == "not to be read" and os.geteuid() == 0:
        pytest.skip("root may read anything")
    SEEN[how](path)
    with pytest.raises(DataError, match=r"holdout_ledger\.jsonl"):
        read_ledger()
    with pytest.raises(DataError, match=r"holdout_ledger\.jsonl"):
        append(9)


@pytest.mark.parametrize("how", SAID)
def test_where_git_cannot_tell_the_next_line_says_so(path, how):
    append(4)
    assert len(openings()[-1].git) == 40
    SAID[how](path)
    append(5)
    assert openings()[-1].git.startswith(("no commit", "not in "))


@pytest.mark.parametrize("how", UNSEEN)
def test_what_nobody_can_see_is_read_as_it_stands(path, how):
    UNSEEN[how](path)
    assert len(openings()) >= 1
