"""A canary in a server: who is answered by it, and what is counted."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from nivesh_lib.paths import flags_file
from nivesh_lib.serving import metrics
from nivesh_lib.serving.rollout import _MOST, Rollout, Seen

USERS = [f"user_{n}" for n in range(4_000)]
GOOD, BAD = Seen(False, False, "tax"), Seen(True, False, "tax")


@pytest.fixture
def rollout(home, request):
    """A canary of a version that no other test has, without its models."""
    made = Rollout.__new__(Rollout)
    made.on = {"version": request.node.name, "step": "shadow"}
    made.follow(made.on)
    return made


def at(rollout, step):
    rollout.follow({**rollout.on, "step": step})
    return {user: rollout.chosen(["q"], user)[0] for user in USERS}


def totals(rollout):
    return metrics.canary_totals(*rollout._labels)


def test_both_sides_have_equal_shares_and_a_user_stays_on_a_side(rollout):
    assert set(at(rollout, "shadow").values()) == {""}
    before = {}
    for step in ("10", "25", "50"):
        now = at(rollout, step)
        sizes = Counter(now.values())
        for side in ("canary", "control"):
            assert abs(sizes[side] - 40 * int(step)) <= 130  # four standard deviations
        assert all(now[user] == side for user, side in before.items() if side)
        before = now
    assert Counter(before.values())[""] == 0


def test_without_a_user_a_query_stays_on_a_side(rollout):
    at(rollout, "50")
    sides = {q: rollout.chosen([q], None)[0] for q in map(str, range(50))}
    assert set(sides.values()) == {"canary", "control"}
    assert all(rollout.chosen([q], None)[0] == side for q, side in sides.items())


def test_the_flag_puts_a_user_on_the_canary_and_they_are_not_counted(rollout):
    (control,) = [user for user, side in at(rollout, "50").items() if side == "control"][:1]
    assert rollout.chosen(["q"], control) == ("control", True)
    flags_file().parent.mkdir(exist_ok=True)
    flags_file().write_text(
        f'[use_new_intent_classifier]\nenabled = true\nwhitelist_users = ["{control}"]\n'
    )
    for step in ("shadow", "10", "50"):
        at(rollout, step)
        assert rollout.chosen(["q"], control) == ("canary", False)
    assert rollout.chosen(["q"], None)[1]


def test_answers_of_the_two_sides_are_compared_in_pairs(rollout):
    at(rollout, "25")
    for side, seen in [("canary", BAD), ("canary", GOOD), ("control", GOOD), ("control", BAD)]:
        rollout.note(side, seen)
    assert totals(rollout)["errors"] == (1, 0, 1)
    assert totals(rollout)["slow"] == totals(rollout)["mix"] == (0, 2, 0)
    assert "disagreement" not in totals(rollout)


def test_the_mix_tells_a_label_that_only_the_canary_gives(rollout):
    at(rollout, "10")
    for _ in range(20):
        rollout.note("canary", GOOD)
        rollout.note("control", Seen(False, False, "rent"))
    assert totals(rollout)["mix"] == (0, 1, 19)  # before the first pair, no label leads


def test_what_waits_for_the_other_side_is_bounded(rollout):
    at(rollout, "10")
    for _ in range(3 * _MOST):
        rollout.note("canary", GOOD)
    for _ in range(2 * _MOST):
        rollout.note("control", GOOD)
    assert totals(rollout)["errors"] == (0, _MOST, 0)


def test_in_shadow_the_two_answers_to_one_query_are_compared(rollout):
    for canary in (GOOD, BAD, Seen(False, True, "rent"), Seen.of(None, 0.0)):
        rollout.compare(canary, GOOD)
    assert totals(rollout) == {"errors": (0, 2, 2), "slow": (0, 3, 1), "disagreement": (0, 2, 2)}
    at(rollout, "10")
    rollout.compare(BAD, GOOD)  # asked before the step, answered after it
    assert totals(rollout) == {}


def test_an_answer_counts_by_its_first_query():
    first = {"intent": "tax", "abstained": True}
    assert Seen.of([first, {"intent": "rent", "abstained": False}], 0.2) == Seen(True, True, "tax")


def test_workers_counts_add_up(tmp_path, monkeypatch):
    import os
    import subprocess
    import sys

    code = (
        "from nivesh_lib.serving import metrics as m\n"
        "m.canary_pairs.labels('1.0.2', '10', 'errors', 'canary').inc(3)\n"
        "m.canary_pairs.labels('1.0.2', '25', 'errors', 'canary').inc()\n"
        "m.abstentions.inc()\n"
        "print(m.canary_totals('1.0.2', '10')['errors'], m.server())"
    )
    told = [
        subprocess.check_output(
            [sys.executable, "-c", code],
            env=os.environ | {metrics.FOLDER: str(tmp_path)},
            text=True,
        )
        for _ in range(2)
    ]
    assert told == [f"(0, 0, 3) {tmp_path}\n", f"(0, 0, 6) {tmp_path}\n"]


def test_a_server_of_one_process_has_another_name_after_each_start():
    assert metrics.server() == metrics.server() != SimpleNamespace
