"""A canary: how its state follows from the log, what is refused, and what a kill leaves."""

from __future__ import annotations

import itertools
import os
import shutil
import signal

import pytest
from typer.testing import CliRunner

from nivesh_lib import hash_chain
from nivesh_lib.cli.app import app
from nivesh_lib.errors import DataError, ReleaseError
from nivesh_lib.records.base import write_json
from nivesh_lib.releases import canary
from nivesh_lib.releases.canary import Settings, abort, advance, counted, evidence, judged, start
from nivesh_lib.releases.log import SHARES, read_log, state_of, writing
from nivesh_lib.releases.package import Package
from nivesh_lib.releases.promotion import archive, promote, rollback
from tests.releases import forks
from tests.releases.test_log import MET, MISSED, NAME
from tests.releases.test_log import append as logged
from tests.releases.test_promotion import aliases

SURE = {"override": "to be tried"}
NOBODY_WORSE = (0, 500, 0)
STEPS = list(SHARES)


def on():
    return state_of(read_log(NAME)).canary


def begin(version="1.0.2", **settings):
    start(version, Settings(**settings), **SURE)
    return on()


def found(step_of, errors=NOBODY_WORSE):
    counts = {"errors": errors, "slow": NOBODY_WORSE, "disagreement": NOBODY_WORSE}
    return evidence(step_of, counts | {"mix": (0, 0, 0)})


def go_to(step):
    while on()["step"] != step:
        advance(on(), found(on()))


# --- the log -----------------------------------------------------------------------------------


def line(step, version="1.1.0", **fields):
    more = {"step": step, "override": "", "gates": [MET], "settings": {}, "evidence": {}}
    with writing() as log:
        common = {"name": NAME, "version": version, "digest": version * 3, "who": "Asha"}
        log.append("canary", {**common, "why": "so", **more, **fields})


@pytest.fixture
def two(home):
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        logged("release", version)
    logged("promotion", "1.0.0", stage="production")


def test_the_step_is_that_of_the_last_line_and_stages_stay(two):
    before = state_of(read_log(NAME))
    for step in STEPS:
        line(step)
        assert on()["step"] == step and on()["gates"] == [MET]
    now = state_of(read_log(NAME))
    assert (now.stages, now.since, now.production) == (before.stages, before.since, "1.0.0")
    assert on()["start"] == read_log(NAME)[-4]["id"] and on()["id"] == read_log(NAME)[-1]["id"]


@pytest.mark.parametrize("end", ["rolled back", "aborted"])
def test_an_end_leaves_none_on(two, end):
    line("shadow")
    line(end)
    assert on() == {}


def test_lines_that_do_not_follow_change_nothing(two):
    line("10")
    line("shadow", "1.0.0")  # it is in production
    assert on() == {}
    line("shadow")
    line("25", "1.2.0")
    line("shadow", "1.2.0")
    assert (on()["version"], on()["step"]) == ("1.1.0", "shadow")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("promotion", {"version": "1.2.0", "stage": "production"}),
        ("promotion", {"version": "1.1.0", "stage": "production"}),
        ("archive", {"version": "1.1.0"}),
    ],
)
def test_it_ends_when_it_or_another_one_comes_into_production_or_it_is_archived(two, kind, fields):
    line("shadow")
    logged("promotion", "1.2.0", stage="staging")
    assert on()
    logged(kind, **fields)
    assert on() == {}


@pytest.mark.parametrize(
    ("step", "fields"),
    [("shadow", {"gates": []}), ("shadow", {"gates": [MET, MISSED]}), ("75", {})],
)
def test_a_start_without_gates_and_an_unknown_step_are_refused(two, step, fields):
    with pytest.raises(DataError, match=r"no line is added that (promotes|is a step that no)"):
        line(step, **fields)
    assert on() == {}


# --- start, steps, ends ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "override", "said"),
    [
        ("1.0.0", "so", "1.0.0 is in production already"),
        ("9.9.9", "so", "9.9.9: was never released"),
        ("1.0.2", "", r"(?s)stays out of production.*the same command with --override"),
    ],
)
def test_a_start_that_may_not_be_is_refused_and_changes_nothing(
    serving_release, version, override, said
):
    before = read_log()
    with pytest.raises(ReleaseError, match=said):
        start(version, Settings(), override=override)
    assert read_log() == before


def test_only_one_is_on_at_a_time_and_none_without_production(serving_release):
    begin()
    with pytest.raises(ReleaseError, match=r"1\.0\.2 is a canary already, since 2.*canary abort"):
        begin("1.0.1")
    abort()
    with pytest.raises(ReleaseError, match="no canary is on"):
        abort()


def test_without_production_there_is_nothing_to_compare_with(released):
    with pytest.raises(ReleaseError, match=r"nothing is in production.*nivesh promote"):
        begin("1.0.1")


@pytest.mark.parametrize("wrong", [{"delta": 0.0}, {"alpha": 1.0}, {"max_requests": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ReleaseError, match=next(iter(wrong))):
        Settings(**wrong)


@pytest.mark.parametrize(("at_once", "steps"), [(False, STEPS), (True, ["shadow"])])
def test_steps_that_are_passed_end_in_production(serving_release, at_once, steps):
    begin(at_once=at_once)
    seen = []
    while on():
        seen.append(on()["step"])
        advance(on(), found(on()))
    assert seen == steps
    entry = read_log(NAME)[-1]
    assert (entry["kind"], entry["stage"], entry["version"]) == ("promotion", "production", "1.0.2")
    assert entry["override"] == SURE["override"] and entry["canary"]["n"] == 500
    assert aliases()["production"] == "1.0.2"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("errors", [(0, 100, 400), (100, 300, 120)])
def test_a_worse_or_undecided_one_is_rolled_back_at_every_step(serving_release, step, errors):
    begin(max_requests=520)
    go_to(step)
    told = found(on(), errors)
    assert told["decision"] in ("rollback", "undecided")
    entry = advance(on(), told)
    assert entry["step"] == "rolled back" and entry["evidence"]["n"] == sum(errors)
    assert on() == {} and state_of(read_log(NAME)).production == "1.0.0"


def test_a_verdict_on_a_step_that_is_over_changes_nothing(serving_release):
    old = begin()
    assert advance(old, found(old))["step"] == "10"
    before = read_log()
    assert advance(old, found(old)) is None
    assert advance(old, found(old, (0, 0, 500))) is None
    assert read_log() == before


def test_another_promotion_and_a_rollback_end_it_and_say_so(serving_release):
    begin()
    notes = promote("1.0.1", "production", **SURE).notes
    assert notes == ["with that, the canary 1.0.2 ended"] and on() == {}
    last = canary.status()["last"]
    assert (last["version"], last["line"]["kind"]) == ("1.0.2", "promotion")


def test_a_rollback_is_refused_while_one_is_on(serving_release):
    promote("1.0.1", "production", **SURE)
    begin()
    with pytest.raises(ReleaseError, match=r"1\.0\.2 is a canary.*canary abort"):
        rollback()
    abort()
    assert rollback().entry["version"] == "1.0.0"


def test_what_was_rolled_back_from_goes_to_staging_first(serving_release):
    promote("1.0.1", "production", **SURE)
    rollback()
    with pytest.raises(ReleaseError, match=r"archived or rolled back.*--to staging"):
        begin("1.0.1")
    promote("1.0.1", "staging", **SURE)
    assert begin("1.0.1")["step"] == "shadow"


def test_without_the_package_of_production_there_is_no_control(serving_release):
    shutil.rmtree(Package.of(NAME, "1.0.0").folder)
    with pytest.raises(ReleaseError, match=r"1\.0\.0: the package is not on this machine"):
        begin()


def test_the_last_one_that_ended_is_named(serving_release):
    begin()
    abort(why="a customer called")
    archive(version="1.0.1")
    last = canary.status()["last"]
    assert (last["version"], last["line"]["step"]) == ("1.0.2", "aborted")
    with pytest.raises(ReleaseError, match=r"other: nothing was released by that name in .*"):
        canary.status("other")


def test_a_canary_is_not_archived_for_its_age(serving_release):
    begin()
    assert [changed.entry["version"] for changed in archive(days=-1)] == ["1.0.1"]


# --- evidence ----------------------------------------------------------------------------------


def test_counts_of_servers_and_workers_add_up_until_the_step_is_over(serving_release):
    first = begin()
    tests = canary.tests_of(first)

    def after(step_of, server, n):
        return counted(step_of, server, dict.fromkeys(canary.tests_of(step_of), (0, n, 0)))

    assert after(first, "a", 5)["errors"] == (0, 0, 0)  # what it had counted before it looked
    assert after(first, "a", 9)["errors"] == (0, 4, 0)
    assert after(first, "b", 3)["errors"] == (0, 4, 0)  # started again
    assert after(first, "b", 6) == dict.fromkeys(tests, (0, 7, 0))
    advance(first, found(first))
    assert after(on(), "b", 6)["errors"] == (0, 0, 0)
    after(on(), "b", 8)
    canary.counts_file(NAME).write_text("{")
    assert canary.counts_of(on())["errors"] == (0, 0, 0) and canary.status()["n"] == 0


@pytest.mark.parametrize("errors", [[1], [-5, 3, 2], [], [1, 2, 3, 4]])
def test_counts_that_cannot_be_are_lost_counts(serving_release, errors):
    started = begin()
    kept = {"step": started["id"], "server": "s", "totals": {}, "counts": {"errors": errors}}
    write_json(canary.counts_file(NAME), kept)
    assert canary.counts_of(started)["errors"] == (0, 0, 0) and canary.status(NAME)["n"] == 0
    assert abort(name=NAME)["step"] == "aborted"


def test_a_step_that_a_server_took_is_not_signed_by_a_person(serving_release):
    starter = begin()["who"]
    step = advance(on(), found(on()))
    assert step["who"] == f"a server (canary of {starter})"
    again = advance(on(), found(on()))
    assert again["who"] == step["who"] and abort(name=NAME)["who"] == starter


def test_each_step_has_its_share_of_alpha(serving_release):
    step = begin(alpha=0.04)
    assert judged(step, canary.counts_of(step)).alpha == 0.01
    abort()
    step = begin(alpha=0.04, at_once=True)
    assert judged(step, canary.counts_of(step)).alpha == 0.04


@pytest.mark.parametrize("test", ["errors", "slow", "disagreement"])
def test_the_reason_names_what_was_worse(serving_release, test):
    step = begin()
    counts = dict.fromkeys(canary.tests_of(step), (0, 50, 0)) | {test: (0, 0, 50)}
    reason = evidence(step, counts)["reason"]
    assert reason.startswith("in shadow, ") and canary._TITLES[test] in reason


# --- the command line --------------------------------------------------------------------------


def said(*arguments):
    done = CliRunner().invoke(app, ["canary", *arguments])
    return done.exit_code, done.output + (str(done.exception) if done.exit_code == 1 else "")


def test_status_tells_step_share_evidence_and_what_is_next(serving_release):
    assert said("status") == (0, "no canary is on\n")
    code, told = said("start", "1.0.2", "--override", "tried", "--delta", "0.1")
    assert code == 0 and "in shadow" in told
    go_to("25")
    code, told = said("status")
    assert code == 0 and "1.0.2 against 1.0.0: 25 %, since 2" in told
    assert "25 % canary, 25 % control" in told and "next       50 % of users" in told
    assert "e-value    1; rolled back at 80" in told
    assert '"n": 0' in said("status", "--json")[1]
    assert said("abort", "--why", "a call")[0] == 0
    assert "the last one: " in said("status")[1] and "aborted: a call" in said("status")[1]


def test_refusals_have_their_exit_codes(serving_release):
    assert said("start", "1.0.2", "--delta", "7")[0] == 2 and said("start")[0] == 2
    code, told = said("abort")
    assert code == 1 and "nothing to abort" in told


# --- kill -9 -----------------------------------------------------------------------------------


def killed_at_the_line(before: bool) -> None:
    """Advance, and be killed just before or after the line is written."""
    write = hash_chain.Writer._write

    def dying(self, raw):
        if not before:
            write(self, raw)
        os.kill(os.getpid(), signal.SIGKILL)

    hash_chain.Writer._write = dying
    advance(on(), found(on()))


@pytest.mark.parametrize("before", [True, False])
def test_a_kill_at_every_step_leaves_one_that_goes_on(serving_release, before):
    begin()
    for step in STEPS:
        pid = forks.start(serving_release, killed_at_the_line, before)
        assert forks.wait(pid) == -signal.SIGKILL
        assert on().get("step") == (step if before else dict(itertools.pairwise(STEPS)).get(step))
        if before:
            advance(on(), found(on()))
    archive(days=999)  # as after every change that was cut off, the next one lets the rest follow
    assert on() == {} and aliases()["production"] == "1.0.2"
