"""A month of a served model in a minute: what is replayed, and what is found of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.data.publishing import publish
from nivesh_lib.evaluation.findings import rollout
from nivesh_lib.evaluation.findings.rollout import MARKS, Sent
from nivesh_lib.notebook import month as month_module
from nivesh_lib.notebook.month import WORSE, Month
from nivesh_lib.notebook.session import start_run
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.reporting.figures import figure_of
from tests.notebook.test_session import PARAMS, home  # noqa: F401 (a fixture)

WORDS = {"tax": "refund 80c deduction", "rent": "flat lease landlord", "save": "gold fund deposit"}


@pytest.fixture
def often(home: Path) -> str:  # noqa: F811
    """A dataset of three intents, of which one row in eight has the words of another one."""
    chance = np.random.default_rng(0)
    intents = [list(WORDS)[n % 3] for n in range(420)]
    said = [chance.choice(list(WORDS)) if chance.random() < 0.18 else one for one in intents]
    words = [f"{chance.choice(WORDS[one].split())} w{chance.integers(9999)}" for one in said]
    texts = [f"{text} w{chance.integers(9999)} w{n}" for n, text in enumerate(words)]
    publish(pd.DataFrame({"query": texts, "intent": intents}), "often", "1.0.0", description="x")
    return "often@1.0.0"


def replayed(dataset: str, seconds: float) -> Month:
    run = start_run("10_serving", **PARAMS | {"DATASET": dataset})
    return Month.replay(run, run.load(dataset), seconds=seconds)


@pytest.mark.slow
def test_a_worse_release_goes_back_drift_is_noticed_and_a_better_release_serves(often, home):  # noqa: F811
    data = sorted(home.joinpath("data").rglob("*"))
    month = replayed(often, 30)
    judged = month.worse_release(), month.drift(), month.corrections(), month.none_lost()
    assert {one.verdict for one in judged} == {"met"}
    assert month.better_release().verdict in ("met", "undecided")  # of some hundred rows
    assert "answered 0 of" in judged[0].claim
    found = month.timeline()
    steps = [step for _, version, step in found.plot.data["moves"] if version != WORSE]
    assert steps == ["shadow", "10", "25", "50", "production"]
    assert figure_of(found).axes
    assert sorted(home.joinpath("data").rglob("*")) == data and not (home / "reports").exists()


@pytest.mark.slow
def test_an_equal_release_is_not_rolled_back(often, monkeypatch):
    monkeypatch.setattr(month_module, "mistaken", lambda labels: {})
    month = replayed(often, 12)
    found = month.worse_release()
    steps = [step for _, step, _ in rollout.moves(month.log, WORSE)]
    assert "rolled back" not in steps and found.verdict != "met"
    assert month.none_lost().verdict == "met"


def test_too_few_rows_are_said_in_one_line_by_every_finding(home):  # noqa: F811
    month = replayed("toy@1.0.0", 60)
    made = month.worse_release(), month.drift(), month.corrections(), month.better_release()
    assert {one.name for one in (*made, month.none_lost())} == set(MARKS)
    assert {one.verdict for one in made} == {"undecided"}
    assert len({one.claim for one in made}) == 1 and "are needed" in made[0].claim
    assert month.timeline().claim == made[0].claim


# --- what files and metrics may say --------------------------------------------------------------

START = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def line(second: int, version: str, step: str, **fields) -> dict:
    kind = "release" if step == "" else "promotion" if step == "production" else "canary"
    told = {"timestamp": f"2026-01-01T00:00:{second:02}+00:00", "version": version, "kind": kind}
    named = {"stage" if kind == "promotion" else "step": step} if step else {}
    evidence = {"decision": fields.pop("decision", "rollback"), "n": 50, "e_value": 99.0}
    return {**told, **named, "why": f"{step}, 50 pairs", "evidence": evidence, **fields}


def log(*steps: str, version: str = "1.0.1", **fields) -> list[dict]:
    entries = [line(0, "1.0.0", ""), line(0, version, ""), line(0, "1.0.0", "production")]
    return entries + [line(2 * n, version, step, **fields) for n, step in enumerate(steps, 1)]


def sent(second: float, release: str, status: int = 200) -> Sent:
    return Sent(START + second, status, release, "tax", "tax")


def polled(*drift: bool, answers: dict[str, int] | None = None) -> list:
    gauge = ("model_drift", (("model_name", "x"),))
    counted = {
        ("model_predictions_total", (("release", one), ("status", "success"))): float(n)
        for one, n in (answers or {}).items()
    }
    return [(START + n, {gauge: float(on), **counted}) for n, on in enumerate(drift)]


@pytest.mark.parametrize(
    ("steps", "fields", "verdict"),
    [
        (["shadow", "rolled back"], {}, "met"),
        (["shadow", "rolled back"], {"decision": "undecided"}, "not met"),
        (["shadow", "production"], {}, "not met"),
        (["shadow", "aborted"], {}, "undecided"),
    ],
)
def test_only_a_rollback_by_evidence_is_one(steps, fields, verdict):
    found = rollout.worse("1.0.1", log(*steps, **fields), [sent(1, "1.0.0"), sent(3, "1.0.1")])
    assert found.verdict == verdict and "answered 1 of 2 requests" in found.claim


@pytest.mark.parametrize(
    ("gauge", "verdict"),
    [
        ((False, False, False, True), "met"),
        ((False, False, False, False), "not met"),
        ((True, True, True, True), "not met"),  # it was on before the mix changed
    ],
)
def test_drift_is_noticed_where_its_verdict_turns_on_after_the_change(gauge, verdict):
    asked = [sent(second, "1.0.0") for second in (1, 2.5, 2.8, 5)]
    found = rollout.drift(START + 1.5, polled(*gauge), asked)
    assert found.verdict == verdict
    assert "2 requests after" in found.claim or verdict == "not met"


def test_a_correction_that_is_lost_or_keeps_its_number_misses_the_mark():
    kept = [{"id": "a", "query": "tax, my number is [PHONE]", "intent": "rent"}]
    draft = {"name": "x", "version": "0.2.0", "rows": 9, "transformation": "",
             "changes": [{"id": "a", "from": None, "to": "tax"}]}  # fmt: skip
    found = rollout.corrections(1, kept, draft, "+91")
    assert found.verdict == "met" and "1 with another label" in found.claim
    assert rollout.corrections(2, kept, draft, "+91").verdict == "not met"
    leaking = [{**kept[0], "query": "my number is +91"}]
    assert rollout.corrections(1, leaking, draft, "+91").verdict == "not met"
    assert rollout.corrections(0, [], {}, "+91").verdict == "undecided"


ALL = ["shadow", "10", "25", "50", "production"]


@pytest.mark.parametrize(
    ("steps", "gain", "verdict"),
    [
        (ALL, (0.02, 0.01, 0.03), "met"),
        (ALL, (0.02, -0.01, 0.05), "undecided"),
        (ALL, (-0.02, -0.03, -0.01), "not met"),
        (["shadow", "10", "rolled back"], (0.02, 0.01, 0.03), "not met"),
        (["shadow", "10", "aborted"], (0.02, 0.01, 0.03), "undecided"),
        ([], None, "undecided"),
    ],
)
def test_a_better_release_is_better_and_goes_through_all_steps(steps, gain, verdict):
    settings = {"settings": {"delta": 0.1, "disagreement": 0.2}}
    entries = log(*steps, version="1.1.0", **settings)
    found = rollout.better("1.1.0", entries, Estimate(*gain, 500) if gain else None)
    assert found.verdict == verdict
    assert [row["then"] for row in found.cells] == steps[1:]
    assert not steps or "of 500 queries that no release has learned from" in found.claim
    assert not steps or "10 more of 100" in found.caveats[-1]


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ([sent(1, "1.0.0"), sent(5, "1.0.1")], "met"),
        ([sent(1, "1.0.0"), sent(5, "1.0.1", 503)], "not met"),
        ([sent(1, "1.0.0"), sent(1, "1.0.1")], "not met"),  # before it was a canary for anybody
        ([sent(1, "1.0.0"), sent(20, "1.0.1")], "not met"),  # long after it was rolled back
    ],
)
def test_an_answer_by_who_was_not_in_service_is_found(answers, verdict):
    told = polled(False, answers={"1.0.0": 1, "1.0.1": 1})
    entries = log("shadow", "10", "rolled back")
    assert rollout.none_lost(entries, answers, told).verdict == verdict


def test_a_count_that_differs_is_found():
    told = polled(False, answers={"1.0.0": 3})
    found = rollout.none_lost(log(), [sent(1, "1.0.0")], told)
    assert found.verdict == "not met" and "the server counted 3" in found.claim


def test_a_release_that_is_replaced_is_in_service_until_then():
    due = rollout.in_service(log("shadow", "10", "production"))
    ((_, end),), ((start, last),) = due["1.0.0"], due["1.0.1"]
    assert (end, start, last) == (START + 6, START + 4, np.inf)
