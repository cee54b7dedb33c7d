"""The release log: its chain, what may follow what, and the state at any time."""

from __future__ import annotations

from datetime import datetime

import pytest

from nivesh_lib import hash_chain, paths
from nivesh_lib.errors import DataError, ReleaseError
from nivesh_lib.releases import log
from nivesh_lib.releases.log import read_log, released, state_of, writing

NAME = "intent_classifier"
MET = {"name": "accuracy", "verdict": "met"}
MISSED = {"name": "size_mb", "verdict": "undecided"}


def append(kind, version, *, name=NAME, **fields):
    common = {"name": name, "version": version, "digest": version * 3, "who": "Asha", "why": "so"}
    more = {
        "release": {"registered": "1"},
        "promotion": {
            "stage": "staging",
            "override": "",
            "gates": [MET],
            "archive_replaced": False,
        },
        "rollback": {"leaves": ""},
        "archive": {},
    }[kind]
    with writing() as chain:
        chain.append(kind, common | more | fields)


@pytest.fixture
def two(home):
    """Two releases; the first served, the second serves, a third one is staged."""
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        append("release", version)
    for version in ("1.0.0", "1.1.0"):
        append("promotion", version)
        append("promotion", version, stage="production")
    append("promotion", "1.2.0")


def test_versions_are_where_the_log_put_them(two):
    state = state_of(read_log(NAME))
    assert (state.production, state.staging, state.previous) == ("1.1.0", "1.2.0", "1.0.0")
    assert state.stages == {"1.0.0": "Staging", "1.1.0": "Production", "1.2.0": "Staging"}


def test_a_rollback_leaves_a_version_that_is_not_gone_back_to(two):
    append("rollback", "1.0.0", leaves="1.1.0")
    state = state_of(read_log(NAME))
    assert (state.production, state.previous) == ("1.0.0", "")
    assert state.failed == {"1.1.0"} and state.stages["1.1.0"] == "Archived"
    append("promotion", "1.1.0", stage="production")
    assert state_of(read_log(NAME)).previous == "1.0.0"


def test_what_served_at_a_time_is_known(home, monkeypatch):
    days = iter(range(1, 5))

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 3, next(days), tzinfo=tz)

    monkeypatch.setattr(hash_chain, "datetime", Clock)
    for version in ("1.0.0", "1.1.0"):
        append("release", version)
        append("promotion", version, stage="production")
    entries = read_log(NAME)
    served = [state_of(entries, f"2026-03-0{day}T12:00:00+00:00").production for day in range(1, 6)]
    assert served == ["", "1.0.0", "1.0.0", "1.1.0", "1.1.0"]


def test_a_version_that_was_displaced_is_where_it_is_since_then(home):
    days = iter(range(1, 9))
    for version, stage in (("1.0.0", "staging"), ("1.0.0", "production"), ("1.1.0", "production")):
        if stage == "staging" or version != "1.0.0":
            append("release", version, timestamp=f"2026-03-0{next(days)}T12:00:00+00:00")
        append("promotion", version, stage=stage, timestamp=f"2026-03-0{next(days)}T12:00:00+00:00")
    since = state_of(read_log(NAME)).since
    assert {version: time[:10] for version, time in since.items()} == {
        "1.0.0": "2026-03-05",
        "1.1.0": "2026-03-05",
    }


def test_names_have_lines_of_their_own(two):
    append("release", "1.0.0", name="banks_classifier")
    assert len(read_log("banks_classifier")) == 1
    assert state_of(read_log("banks_classifier")).production == ""


@pytest.mark.parametrize(
    ("kind", "version", "fields", "said"),
    [
        ("promotion", "9.0.0", {}, "promotion of a version that was never released"),
        ("promotion", "1.0.0", {"digest": "another"}, "names another digest"),
        ("release", "1.0.0", {}, "releases a version for a second time"),
        ("promotion", "1.0.0", {"gates": []}, "promotes a version without its gates"),
        ("promotion", "1.0.0", {"gates": [MET, MISSED]}, "promotes a version without .* a reason"),
    ],
)
def test_a_line_that_cannot_stand_there_is_refused(two, kind, version, fields, said, monkeypatch):
    before = paths.release_log().read_bytes()
    with pytest.raises(DataError, match=f"release_log.jsonl: no line is added that {said}"):
        append(kind, version, **fields)
    assert paths.release_log().read_bytes() == before
    with monkeypatch.context() as patch:  # as an editor or another program would write it
        patch.setattr(log, "_objection", lambda entry, above: "")
        append(kind, version, **fields)
    with pytest.raises(DataError, match=rf"line 9: {said}"):
        read_log(NAME)


def test_a_gate_that_is_not_met_is_passed_for_a_reason(two):
    append("promotion", "1.0.0", gates=[MET, MISSED], override="a pilot")
    assert read_log(NAME)[-1]["override"] == "a pilot"


def test_an_edited_or_missing_line_is_named(two):
    lines = paths.release_log().read_text().splitlines(keepends=True)
    paths.release_log().write_text("".join([*lines[:2], *lines[3:]]))
    with pytest.raises(DataError, match="line 3: does not follow"):
        read_log(NAME)
    edited = lines[3].replace("Asha", "Ravi")
    paths.release_log().write_text("".join([*lines[:3], edited, *lines[4:]]))
    with pytest.raises(DataError, match="line 5: does not follow"):
        read_log(NAME)


def test_a_version_that_was_never_released_is_named_with_those_that_were(two):
    assert released(read_log(NAME), "v1.1.0")["version"] == "1.1.0"
    with pytest.raises(ReleaseError, match=r"7\.0\.0: was never released. Released: 1\.0\.0, 1"):
        released(read_log(NAME), "7.0.0")
