"""False rollbacks and power of the tests of a canary, beside other rules; see docs/canary.md."""

from __future__ import annotations

import os

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from nivesh_lib.evaluation.sequential import Canary, EProcess, MixProcess
from tests.conftest import REPOSITORY
from tests.evaluation.canary_rates import (
    NEVER,
    RULES,
    SAME,
    STORIES,
    labels,
    mann_whitney,
    mixes,
    paired,
    promotion,
    read,
    rollback,
    write,
)

PAGE = REPOSITORY / "docs" / "canary.md"
OURS = (SAME, "e-process, split traffic")


def number(cell):
    return float(cell.rstrip(" %").replace(",", ""))


def check(page, most):
    """Check what the page says; ``most`` is the largest share of errors, in per cent."""
    for story in STORIES:
        rows = {row["rule"]: row for row in read(page, story)}
        assert list(rows) == [SAME, *RULES]
        for name in OURS:
            errors = list(rows[name].values())[1:4]
            assert all(number(cell) <= most for cell in errors if cell)
            assert number(rows[name]["caught"]) >= 95
        # What nothing is tolerated for may not go wrong where there is no difference.
        assert number(rows["the same, nothing tolerated"]["no difference"]) <= most
        faster = number(rows["the same, nothing tolerated"]["median request"])
        assert faster < number(rows["Kayenta"]["median request"])
        assert number(rows["z-test, nothing tolerated"]["no difference"]) > 25
        assert number(rows["z-test"]["as much worse as tolerated"]) > 25
        assert number(rows["threshold, windows of 500"]["both get worse"]) > 95
        once = number(rows["z-test, one look"]["median request"])
        assert all(number(rows[name]["median request"]) < once for name in OURS)
    for row in read(page, "decisions"):
        assert number(row["no difference: promoted"]) >= 95
        assert number(row["as tolerated: promoted"]) <= most
    for row in read(page, "together"):
        if row["what is the case"] == "no difference":
            assert number(row["rolled back"]) <= most
        else:
            assert number(row["rolled back"]) > 50


def test_the_documented_rates_keep_their_promises():
    check(PAGE, 5)
    assert PAGE.read_text(encoding="utf-8").count("10,000 canaries without a difference") == 3


@pytest.mark.slow  # three minutes where it writes
def test_the_documented_rates_are_those_of_simulated_canaries(tmp_path):
    writes = bool(os.environ.get("NIVESH_RENEW_TABLES"))
    page = PAGE if writes else tmp_path / "canary.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    write(page, *((10_000, 2_000) if writes else (500, 1_000)))
    # Of 500 canaries, the standard error is one point at 5 %.
    check(page, 5 if writes else 8)


def test_simulated_canaries_are_decided_as_a_real_one_is():
    rng = np.random.default_rng(0)
    outcomes = rng.choice([-1, 0, 1], (6, 1_200), p=[0.03, 0.9, 0.07])
    outcomes[3:] = rng.choice([-1, 0, 1], (3, 1_200), p=[0.05, 0.92, 0.03])
    back, on = rollback(outcomes, 0.01), promotion(outcomes, 0.01, every=1)
    for sequence, bad, good in zip(outcomes.tolist(), back, on, strict=True):
        canary = Canary({"errors": EProcess(0.01)}, most=1_200)
        for outcome in sequence:
            canary = canary.updated({"errors": outcome})
        expected = "rollback" if bad < good else "promote" if good < NEVER else "undecided"
        assert (canary.decision, canary.n) == (expected, min(bad, good, 1_200))
    assert (back[:3] < NEVER).any() and (on[3:] < NEVER).any()


def test_simulated_mixes_are_those_of_the_process():
    drawn = labels(np.random.default_rng(0), 2, 0.15)[:, :200]
    process = MixProcess(0.05)
    for control, canary in drawn[..., 1].T.tolist():
        process = process.updated((str(canary), str(control)))
    outcomes = mixes(drawn)[1]
    assert process.counts == tuple((outcomes == kind).sum() for kind in (-1, 0, 1))


def test_kayenta_s_statistic_is_that_of_mann_whitney():
    rng = np.random.default_rng(0)
    control, canary = rng.poisson(1, (1, 30)), rng.poisson(3, (1, 30))
    for shift, z in enumerate(mann_whitney(control, canary)[0]):
        found = mannwhitneyu(canary[0] - shift - 0.5, control[0], method="asymptotic")
        assert abs(z) == pytest.approx(norm.isf(found.pvalue / 2))


def test_pairs_are_of_the_canary_less_the_control():
    assert paired(np.array([[[True, False]], [[False, True]]])).tolist() == [[-1, 1]]
