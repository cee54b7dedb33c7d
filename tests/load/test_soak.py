from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest

from tests.load import soak
from tests.load.traffic import Outcome


def test_a_short_soak_has_no_fault(capsys):
    """Ten minutes show a leak; seconds show that every kind of request gets an answer."""
    assert soak.main(["--seconds", "3", "--growth", "0.3"]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "no fault" in said and "since it settled" in said


def test_all_kinds_are_asked_and_no_query_twice():
    made = list(itertools.islice(soak.requests(["a", "b"]), 2_000))
    assert set(Counter(one.kind for one in made)) == set(soak.SHARES)
    bodies = [one.raw.partition(b"\r\n\r\n")[2] for one in made if one.kind == "single"]
    assert len({json.loads(body)["query"] for body in bodies}) == len(bodies) > 1_600


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome("single", 500, 1.0), ["single: 1 got 500"]),
        (Outcome("single", 422, 1.0), ["single: 1 got 422"]),
        (Outcome("single", 503, 1.0), ["single: 1 got 503"]),
        (Outcome("single", 503, 1.0, retry=True), []),
        (Outcome("correction", 201, 1.0), []),
        (Outcome("bad", 200, 1.0), ["bad: 1 got 200"]),
        (Outcome("unanswered", 0, 1.0), ["unanswered: 1 got 0"]),
    ],
)
def test_an_answer_that_a_kind_may_not_get_is_a_fault(outcome, told):
    assert soak.faults([outcome]) == told


def test_memory_counts_from_when_it_should_be_settled():
    rising = [100] * 20 + [200] * 100
    assert soak.growth(rising) == 0.0  # it rose in the first minute only
    assert soak.growth([*rising, *[210] * 50]) == pytest.approx(0.05)


def test_memory_that_grows_or_a_worker_that_ends_is_a_fault(capsys):
    args = soak.parsed([])
    assert soak.told([], [0.0], [100] * 60, args, ended=0) == 0
    assert soak.told([], [0.0], [100] * 60, args, ended=1) == 1
    assert soak.told([], [0.0], [100] * 40 + [103] * 20, args, ended=0) == 1
    assert soak.told([], [0.0], [], args, ended=0) == 1
    assert "memory grew by more than 2.0%" in capsys.readouterr().out
