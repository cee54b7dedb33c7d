"""Which step starts when."""

from __future__ import annotations

from pathlib import Path

from nivesh_lib.pipeline.run import Planned, startable
from nivesh_lib.pipeline.spec import Step
from nivesh_lib.records.run import RunRecord


def planned(name, *, needs=(), exclusive=False):
    step = Step(name=name, help="", notebook=Path(name), needs=list(needs), exclusive=exclusive)
    return Planned(step, {}, "key", {}, None, [], True)


def record(*done):
    fields = {"run": "r", "status": "running", "profile": "default", "started": "now"}
    rest = {"dataset": {"ref": "x@1.0.0"}, "git": {}, "environment": {}, "seconds": 0.0}
    steps = {name: {"status": "done"} for name in done}
    return RunRecord.model_validate({**fields, **rest, "complete": False, "steps": steps})


def names(items):
    return [item.step.name for item in items]


def test_independent_steps_start_side_by_side_up_to_the_slots():
    waiting = [planned("a"), planned("b"), planned("c")]
    assert names(startable(waiting, {}, record(), 2)) == ["a", "b"]


def test_an_exclusive_step_waits_until_nothing_else_runs():
    alone, other = planned("alone", exclusive=True), planned("other")
    assert names(startable([alone], {"other": other}, record(), 2)) == []
    assert names(startable([alone], {}, record(), 2)) == ["alone"]


def test_nothing_starts_beside_an_exclusive_step():
    alone, other = planned("alone", exclusive=True), planned("other")
    assert names(startable([other], {"alone": alone}, record(), 2)) == []


def test_a_step_waits_for_what_it_needs():
    first, second = planned("a"), planned("b", needs=("a",))
    assert names(startable([second], {"a": first}, record(), 2)) == []
    assert names(startable([second], {}, record("a"), 2)) == ["b"]
