from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.evaluation.metrics import wilson
from nivesh_lib.evaluation.paired import more_right, points


def right(won, lost, n):
    """Two columns in which one alone is right in ``won`` rows, the other alone in ``lost``."""
    rows = np.arange(n)
    return rows < won, (rows >= won) & (rows < won + lost)


def test_the_interval_is_the_published_one():
    # Tango 1998, table V: 12 and 2 discordant pairs of 50 give 0.061 to 0.345.
    found = more_right(*right(12, 2, 50))
    assert (found.value, found.n) == (0.2, 50)
    assert (found.low, found.high) == pytest.approx((0.061, 0.345), abs=5e-4)


def test_models_that_never_differ_may_still_differ_on_other_rows():
    found = more_right(*right(0, 0, 800))
    assert found.value == 0 and found.high == -found.low
    assert found.high == pytest.approx(wilson(0.0, 800)[1], rel=1e-3)


@pytest.mark.parametrize(("won", "lost", "n"), [(1, 3, 200), (0, 5, 80), (40, 0, 40), (0, 1, 1)])
def test_exchanging_the_models_turns_the_interval_around(won, lost, n):
    found, turned = more_right(*right(won, lost, n)), more_right(*right(lost, won, n))
    assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low))
    assert -1 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(("only_one", "only_other"), [(0.005, 0.01), (0.002, 0.002), (0.04, 0.05)])
def test_it_holds_the_truth_also_where_models_hardly_differ(only_one, only_other):
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        kind = rng.choice(3, 200, p=[only_one, only_other, 1 - only_one - only_other])
        found = more_right(kind == 0, kind == 1)
        held += found.low <= only_one - only_other <= found.high
    assert held / 400 >= 0.93


@pytest.mark.parametrize(("one", "other"), [([], []), ([True], [True, False])])
def test_columns_that_do_not_match_are_refused(one, other):
    with pytest.raises(ValueError, match="equally long"):
        more_right(np.array(one), np.array(other))


@pytest.mark.parametrize(
    ("share", "told"), [(-0.012, "−1.2"), (0.003, "+0.3"), (0, "0.0"), (-0.0004, "0.0")]
)
def test_a_difference_is_told_in_points(share, told):
    assert points(share) == told
