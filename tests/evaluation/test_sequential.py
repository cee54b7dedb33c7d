from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from nivesh_lib.evaluation.sequential import (
    Canary,
    EProcess,
    MixProcess,
    Pairs,
    log_e_values,
)

ALPHA = 0.05
outcomes = st.lists(st.sampled_from([-1, 0, 1]), max_size=60)
bounds = st.sampled_from([-0.2, 0.0, 0.01, 0.1])
labels = st.sampled_from(["tax", "goal", "loan"])


def after(process, found):
    for outcome in found:
        process = process.updated(outcome)
    return process


def mixture(sequence, bound, least=-1):
    """The mean of the wealths, bet by bet and outcome by outcome, as fractions."""
    last = 0.99 / (bound - least)
    bets = [Fraction(0.1 * (last / 0.1) ** (k / 15)) for k in range(16)]
    wealths = [
        math.prod((1 + bet * (Fraction(x) - Fraction(bound)) for x in sequence), start=Fraction(1))
        for bet in bets
    ]
    return float(sum(wealths) / len(wealths))


@given(outcomes, bounds)
def test_the_e_value_is_the_mean_wealth_of_the_bets(sequence, bound):
    assert after(EProcess(bound), sequence).e_value == pytest.approx(mixture(sequence, bound))


@pytest.mark.parametrize(
    ("bound", "least", "counts", "e_value"),
    [
        (0.01, -1, (5, 171, 24), 72.39131206404652),
        (0.0, -1, (39, 99, 62), 5.957368839476495),
        (0.05, 0, (0, 175, 25), 731.4109789682672),
        (-0.2, -1, (66, 98, 36), 0.5534607598830427),
    ],
)
def test_it_is_that_of_confseq(bound, least, counts, e_value):
    # diversified_betting_mart of confseq 0.0.11 with the same bets, outcomes scaled to 0..1.
    assert EProcess(bound, least, counts).e_value == pytest.approx(e_value, rel=1e-12)


@pytest.mark.parametrize("counts", [(5, 171, 24), (10, 980, 30), (100, 9_800, 300)])
def test_sixteen_bets_do_nearly_what_all_bets_of_their_range_do(counts):
    bound, last = 0.01, 0.99 / 1.01

    def wealth(log_bet):
        gains = np.log1p(np.exp(log_bet) * (np.array([-1, 0, 1]) - bound))
        return np.exp(np.dot(counts, gains))

    ends = np.log(0.1), np.log(last)
    every = quad(wealth, *ends, limit=200)[0] / (ends[1] - ends[0])
    assert float(log_e_values(np.array(counts), bound)) == pytest.approx(np.log(every), abs=0.15)


# --- the promise -------------------------------------------------------------------


@pytest.mark.parametrize("bound", [-0.3, 0.0, 0.01, 0.2])
@pytest.mark.parametrize("discordant", [0.0, 0.02, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("below", [0.0, 0.005, 0.3])
def test_the_expected_e_value_is_one_at_the_bound_and_less_below(bound, discordant, below):
    mean = bound - below
    chance = np.array([(discordant - mean) / 2, 1 - discordant, (discordant + mean) / 2])
    if chance.min() < 0:
        return  # no outcomes have that mean and so few ones
    expected = sum(
        math.prod(chance[x + 1] for x in sequence) * after(EProcess(bound), sequence).e_value
        for sequence in itertools.product([-1, 0, 1], repeat=5)
    )
    assert expected == pytest.approx(1) if below == 0 else expected < 1


@pytest.mark.parametrize("share", [0.0, 0.01, 0.03, 0.05])
def test_so_is_that_of_a_share(share):
    expected = sum(
        math.prod(share if x else 1 - share for x in sequence)
        * after(EProcess(0.05, least=0), sequence).e_value
        for sequence in itertools.product([0, 1], repeat=9)
    )
    assert expected == pytest.approx(1) if share == 0.05 else expected < 1


def ever_refuted(chance, n, refuted):
    """The exact probability that ``refuted`` (low, high) is ever true among n outcomes."""
    state, found = np.zeros((n + 1, n + 1)), 0.0
    state[0, 0] = 1.0
    for k in range(1, n + 1):
        moved = chance[1] * state
        moved[1:] += chance[0] * state[:-1]
        moved[:, 1:] += chance[2] * state[:, :-1]
        hit = np.zeros_like(moved, dtype=bool)
        hit[: k + 1, : k + 1] = refuted(k, *np.indices((k + 1, k + 1)))
        found += moved[hit].sum()
        state = np.where(hit, 0.0, moved)
    return found


@pytest.mark.parametrize("discordant", [0.03, 0.1, 0.6])
@pytest.mark.parametrize("side", [1, -1], ids=["rollback", "promotion"])
def test_a_look_at_each_of_150_outcomes_errs_in_5_of_100_at_most(discordant, side):
    bound = 0.01
    chance = [(discordant - bound) / 2, 1 - discordant, (discordant + bound) / 2]

    def refuted(k, low, high):
        counts = np.stack([low, np.maximum(k - low - high, 0), high], axis=-1)
        e_values = log_e_values(counts[..., ::side], side * bound)
        return (low + high <= k) & (e_values >= -math.log(ALPHA))

    found = ever_refuted(chance, 150, refuted)
    assert 0 < found <= ALPHA


def ever_told(share, n):
    """The exact probability that more than 5 % is ever told among n outcomes of a share."""
    state, found = np.zeros(n + 1), 0.0
    state[0] = 1.0
    for k in range(1, n + 1):
        state[1:] = state[1:] * (1 - share) + state[:-1] * share
        state[0] *= 1 - share
        high = np.arange(k + 1)
        counts = np.stack([0 * high, k - high, high], axis=-1)
        hit = np.flatnonzero(log_e_values(counts, 0.05, 0) >= -math.log(ALPHA))
        found += state[hit].sum()
        state[hit] = 0
    return found


def test_a_share_is_told_too_large_in_5_of_100_at_most_and_surely_if_it_is():
    assert 0.02 < ever_told(0.05, 1_500) <= ALPHA
    assert ever_told(0.08, 1_500) > 0.97


@pytest.mark.parametrize("tie", [0.0, 0.5, 1.0])
def test_the_mix_keeps_the_promise_whatever_the_two_sides_have_to_do_with_each_other(tie):
    canary, control = np.array([0.3, 0.5, 0.2]), np.array([0.4, 0.4, 0.2])  # 0.1 apart
    shared = np.minimum(canary, control)
    apart = np.outer(canary - shared, control - shared) / (canary - shared).sum()
    joint = (1 - tie) * np.outer(canary, control) + tie * (np.diag(shared) + apart)
    names = ("tax", "goal", "loan")
    kinds = [(a, b) for a, b in itertools.product(range(3), repeat=2) if joint[a, b] > 0]

    def expected(process):
        return sum(
            math.prod(joint[pair] for pair in pairs)
            * after(process, [(names[a], names[b]) for a, b in pairs]).e_value
            for pairs in itertools.product(kinds, repeat=3)
        )

    assert 0.8 < expected(MixProcess(0.1)) < 1
    # It has learned where the canary is ahead, and the mixes are as far apart as is tolerated.
    assert expected(MixProcess(0.1, leads={"goal": 9, "tax": -9, "loan": -9})) == pytest.approx(1)


def test_a_mix_that_moves_is_told_and_one_that_does_not_is_not():
    rng = np.random.default_rng(0)
    pairs = rng.choice(["tax", "goal", "loan"], size=(600, 2))
    same = after(MixProcess(0.05), pairs.tolist())
    moved = [("tax" if rng.random() < 0.3 else a, b) for a, b in pairs.tolist()]
    found = after(MixProcess(0.05), moved)
    assert found.e_value > 1 / ALPHA > 2 > same.e_value
    assert 0.05 < found.interval(ALPHA)[0] < 0.2  # 0.3 * 2 / 3
    assert same.interval(ALPHA) == (0, 1)


# --- what evidence does --------------------------------------------------------------


@given(outcomes.filter(len), bounds, st.data())
def test_a_worse_outcome_is_more_evidence(sequence, bound, data):
    place = data.draw(st.integers(0, len(sequence) - 1))
    worse = [*sequence[:place], min(sequence[place] + 1, 1), *sequence[place + 1 :]]
    found = after(EProcess(bound), sequence).e_value
    assert after(EProcess(bound), worse).e_value >= found
    assert after(EProcess(bound + 0.01), sequence).e_value <= found
    assert after(EProcess(bound), data.draw(st.permutations(sequence))).e_value == found


@given(outcomes, bounds, st.sampled_from([0.5, 0.05]))
def test_the_interval_excludes_the_bound_where_the_tests_do(sequence, bound, alpha):
    process = after(EProcess(bound), sequence)
    low, high = process.interval(alpha)
    assert low <= (np.mean(sequence) if sequence else 0) <= high
    assert (low > bound) == (process.e_value > 1 / alpha)
    assert (high < bound) == process.settled(alpha)


def test_the_interval_narrows_around_the_mean():
    few, many = (EProcess(0.0, counts=(n, 97 * n, 2 * n)).interval(ALPHA) for n in (1, 100))
    assert few[0] < many[0] < 0.01 < many[1] < few[1]
    assert EProcess(0.05, 0, (0, 100, 0)).interval(ALPHA)[0] == 0
    assert EProcess(0.05, 0, (0, 0, 100)).interval(ALPHA)[1] == 1


def test_huge_evidence_is_a_number():
    assert math.isfinite(EProcess(0.01, counts=(0, 0, 10**6)).e_value)
    assert EProcess(0.01, counts=(10**6, 0, 0)).e_value == 0


# --- pairs and the canary --------------------------------------------------------------


@given(st.lists(st.sampled_from(["canary", "control"])))
def test_pairs_are_made_in_the_order_of_arrival(sides):
    pairs, made = Pairs(), []
    for number, side in enumerate(sides):
        pairs, pair = pairs.joined(side, number)
        made += [pair] if pair else []
    first, second = ([n for n, s in enumerate(sides) if s == one] for one in ("canary", "control"))
    assert made == list(zip(first, second, strict=False))
    assert len(pairs.waiting) == abs(len(first) - len(second))


def canary(**changes):
    tests = {"errors": EProcess(0.01), "slow": EProcess(0.02), "mix": MixProcess(0.05)}
    return Canary(**{"tests": tests, "most": 3_000} | changes)


def watched(state, draw, n=3_000):
    rng = np.random.default_rng(0)
    for _ in range(n):
        state = state.updated(draw(rng))
    return state


def test_a_canary_that_errs_is_rolled_back_and_then_stays_so():
    state = watched(canary(), lambda rng: {"errors": int(rng.random() < 0.1)}, 300)
    assert state.decision == "rollback" and state.n < 300
    assert state.e_value == pytest.approx(np.mean([t.e_value for t in state.tests.values()]))
    assert state.updated({"errors": -1}) is state


def test_one_that_does_as_well_goes_on():
    state = watched(canary(), lambda rng: {"errors": 0, "slow": 0, "mix": ("tax", "tax")})
    assert state.decision == "promote" and state.n < 1_000
    # Each test needs outcomes of its own.
    unseen = watched(canary(most=900), lambda rng: {"errors": 0, "mix": ("tax", "tax")}, 900)
    assert unseen.decision == "undecided"


def test_an_outcome_that_comes_late_is_not_another_request():
    state = canary()
    for _ in range(3):
        state = state.updated({"slow": 0}).updated({"errors": 0})
    assert state.n == 3


def test_one_at_the_bound_is_undecided_at_the_end():
    found = watched(
        canary(tests={"errors": EProcess(0.02)}, most=200),
        lambda rng: {"errors": int(rng.choice([-1, 0, 1], p=[0.04, 0.9, 0.06]))},
        200,
    )
    assert (found.decision, found.n) == ("undecided", 200)


@given(st.lists(st.tuples(st.sampled_from([-1, 0, 1]), labels, labels), max_size=30))
def test_the_state_survives_json(answers):
    state = canary()
    for errors, one, other in answers:
        state = state.updated({"errors": errors, "mix": (one, other)})
    loaded = Canary.from_dict(json.loads(json.dumps(state.as_dict(), allow_nan=False)))
    assert loaded == state
    assert loaded.updated({"mix": ("tax", "goal")}) == state.updated({"mix": ("tax", "goal")})


def test_outcomes_may_be_numpy_s():
    assert after(EProcess(0.01), np.array([1, 0, -1, 1], dtype=np.int8)).counts == (1, 1, 2)


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [2, 0.5, "1", None, float("nan")])
def test_an_outcome_that_is_none_is_refused(outcome):
    with pytest.raises(ValueError, match="not a whole number from -1 to 1"):
        EProcess(0.01).updated(outcome)


def test_so_is_one_below_the_smallest():
    with pytest.raises(ValueError, match="from 0 to 1"):
        EProcess(0.05, least=0).updated(-1)


@pytest.mark.parametrize("outcome", [1, "tax", ("tax",), ("tax", 1), None])
def test_a_mix_takes_two_labels(outcome):
    with pytest.raises(ValueError, match="not a label of the canary and one of the control"):
        MixProcess(0.05).updated(outcome)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: EProcess(0.0, least=0), "bound 0.0 is not between"),
        (lambda: EProcess(float("nan")), "bound nan"),
        (lambda: EProcess(0.1, least=-2), "-1 or 0"),
        (lambda: EProcess(0.1, counts=(1, 2)), "counts"),
        (lambda: EProcess(0.1, 0, (1, 0, 0)), "outcomes from 0"),
        (lambda: canary(tests={"mix": MixProcess(0.05)}), "can show it safe"),
        (lambda: canary(alpha=1.0), "out of range"),
        (lambda: canary(most=0), "out of range"),
        (lambda: canary().updated({"wrong": 1}), r"no test \['wrong'\]; there are errors, slow"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def broken(**changes):
    return canary().as_dict() | changes


@pytest.mark.parametrize(
    "state",
    [
        {},
        [],
        broken(tests=[]),
        broken(alpha="0.05"),
        broken(more=1),
        broken(most=None),
        broken(tests={"errors": {"bound": 0.01, "counts": [0, -1, 0]}}),
        broken(tests={"errors": {"bound": 0.01, "counts": None}}),
    ],
    ids=str,
)
def test_a_state_that_is_none_is_refused(state):
    with pytest.raises(ValueError, match=r"state of a canary|counts"):
        Canary.from_dict(state)
