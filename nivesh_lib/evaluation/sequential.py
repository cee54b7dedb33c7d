"""Sequential tests of a canary against its control, valid at every request.

An outcome compares the two: on one query that both have answered (shadow), or on one query of each,
paired in order of arrival (`Pairs`, for split traffic). It is -1, 0 or 1:

- *errors*: canary wrong minus control wrong, so that only pairs with one wrong answer tell
  (with a bound of 0, McNemar's test at every request);
- *slow answers*: canary above a fixed limit in milliseconds minus control above it;
- *disagreement*, where nobody knows the right answer: 1 where they answer otherwise, else 0;
- *mix of labels*: see `MixProcess`.

The null hypothesis of each is that, whatever has happened before, the expected next outcome is at
most a bound. An `EProcess` is the wealth of bets against it that began with 1 (Waudby-Smith and
Ramdas 2024). Under the null it ever reaches 1 / alpha with probability alpha at most (Ville 1939),
however often one looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np

Decision = Literal["continue", "promote", "rollback", "undecided"]
Side = Literal["canary", "control"]
# A bet of b gains b (outcome - bound). The best depends on rates that nobody knows, so the wealth
# begins in equal parts on several. The least is best where the excess over the bound is a tenth of
# the variance of an outcome; the largest may lose nearly, but never, everything at once.
_BETS, _LEAST_BET, _LARGEST_LOSS = 16, 0.1, 0.99
_STEPS = 40  # halvings of an interval of at most 2: to 1e-11


def log_e_values(counts: np.ndarray, bound: float, least: int = -1) -> np.ndarray:
    """Return the logarithms of the e-values against "the mean is at most ``bound``", shape (...,).

    They do not depend on the order of the outcomes, and fall where the bound rises.

    Parameters
    ----------
    counts
        How many outcomes were -1, 0 and 1, shape (..., 3).
    least
        The smallest possible outcome, below ``bound``.
    """
    bets = np.geomspace(_LEAST_BET, _LARGEST_LOSS / (bound - least), _BETS)
    outcomes = np.maximum([-1.0, 0.0, 1.0], least)
    wealth = np.asarray(counts) @ np.log1p(bets * (outcomes[:, None] - bound))
    most = wealth.max(axis=-1, keepdims=True)
    return np.asarray(most[..., 0] + np.log(np.exp(wealth - most).mean(axis=-1)))


@dataclass(frozen=True)
class EProcess:
    """Evidence against "the mean outcome is at most ``bound``".

    Parameters
    ----------
    bound
        What is tolerated: a difference of shares (0.01 is one more of 100 queries), or a share.
    least
        The smallest outcome: -1 for differences, 0 for a share such as that of disagreement.
    counts
        How many outcomes were -1, 0 and 1.

    Raises
    ------
    ValueError
        A bound that is not between the smallest outcome and 1, or impossible counts.
    """

    bound: float
    least: int = -1
    counts: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        if self.least not in (-1, 0) or not self.least < self.bound < 1:
            raise ValueError(f"bound {self.bound} is not between {self.least} (-1 or 0) and 1")
        valid = len(self.counts) == 3 and all(type(n) is int and n >= 0 for n in self.counts)
        if not valid or (self.least == 0 and self.counts[0]):
            raise ValueError(f"counts {self.counts} are not of outcomes from {self.least} to 1")
        object.__setattr__(self, "counts", tuple(self.counts))  # JSON makes lists of them

    def updated(self, outcome: Any) -> Self:
        """Return the process after one more outcome.

        Raises
        ------
        ValueError
            An outcome that is not -1, 0 or 1, or below the smallest.
        """
        if outcome not in (-1, 0, 1) or outcome < self.least:
            raise ValueError(f"outcome {outcome!r} is not a whole number from {self.least} to 1")
        low, same, high = (
            n + int(outcome == kind) for n, kind in zip(self.counts, (-1, 0, 1), strict=True)
        )
        return replace(self, counts=(low, same, high))

    @property
    def n(self) -> int:
        """The number of outcomes."""
        return sum(self.counts)

    @property
    def e_value(self) -> float:
        """The wealth, 1 at first; under the null it ever reaches 20 once in 20 times at most."""
        found = log_e_values(np.array(self.counts), self.bound, self.least)
        return math.exp(min(float(found), 700.0))  # JSON knows no infinity

    def shown_below(self, bound: float, alpha: float) -> bool:
        """Whether "the mean is at least ``bound``" is refuted, at any time with error ``alpha``."""
        turned = np.array(self.counts[::-1])  # a mean of at least m is one of at most -m
        return bool(log_e_values(turned, -bound) >= -math.log(alpha))

    def settled(self, alpha: float) -> bool:
        """Whether nothing here stands against promotion: the mean is shown below the bound."""
        return self.shown_below(self.bound, alpha)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the confidence sequence of the mean.

        Each end is right at all times together with probability ``1 - alpha``.
        """
        if not self.n:
            return float(self.least), 1.0
        counts, mean = np.array(self.counts), (self.counts[2] - self.counts[0]) / self.n
        return (
            _end(
                lambda m: bool(log_e_values(counts, m, self.least) >= -math.log(alpha)),
                self.least,
                mean,
            ),
            _end(lambda m: self.shown_below(m, alpha), 1.0, mean),
        )


def _end(refuted: Callable[[float], bool], outer: float, inner: float) -> float:
    """Return the end of an interval between a refuted mean and the one that was observed."""
    for _ in range(_STEPS):
        middle = (outer + inner) / 2
        if middle in (outer, inner):
            break
        outer, inner = (middle, inner) if refuted(middle) else (outer, middle)
    return float(outer)


@dataclass(frozen=True)
class MixProcess(EProcess):
    """Evidence against "the mixes of labels differ by at most ``bound``" in total variation.

    Total variation is the share of queries whose label would have to change to make the mixes
    equal. The bet at a pair of labels is that the canary's is one that the canary has had more
    often so far: that many more of its queries, at most, can have such labels.

    Parameters
    ----------
    leads
        Label -> how many more of the canary's answers than of the control's it was.
    """

    leads: Mapping[str, int] = field(default_factory=dict)

    def updated(self, outcome: Any) -> Self:
        """Return the process after the labels of one pair, the canary's and the control's.

        Raises
        ------
        ValueError
            Not two labels.
        """
        two = isinstance(outcome, tuple | list) and len(outcome) == 2
        if not two or not all(isinstance(label, str) for label in outcome):
            raise ValueError(f"{outcome!r} is not a label of the canary and one of the control")
        canary, control = outcome
        ahead = [self.leads.get(label, 0) > 0 for label in outcome]
        leads = {**self.leads}
        leads[canary] = leads.get(canary, 0) + 1
        leads[control] = leads.get(control, 0) - 1
        return replace(super().updated(int(ahead[0]) - int(ahead[1])), leads=leads)

    def settled(self, alpha: float) -> bool:
        """Return True: it can show a change and never its absence, which nobody has to wait for."""
        return True

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return what the total variation is at least, and 1: nothing is known of its upper end."""
        return max(0.0, super().interval(alpha)[0]), 1.0


@dataclass(frozen=True)
class Pairs:
    """Answers of split traffic that wait for one of the other side, in order of arrival."""

    side: Side = "canary"
    waiting: tuple[Any, ...] = ()

    def joined(self, side: Side, answer: Any) -> tuple[Pairs, tuple[Any, Any] | None]:
        """Return what waits after one more answer, and the pair (canary, control) it completes."""
        if side == self.side or not self.waiting:
            return Pairs(side, (*self.waiting, answer)), None
        pair = (self.waiting[0], answer) if self.side == "canary" else (answer, self.waiting[0])
        return Pairs(self.side, self.waiting[1:]), pair


@dataclass(frozen=True)
class Canary:
    """Everything that is watched of a canary, and what it amounts to.

    Parameters
    ----------
    tests
        By name; one at least besides any `MixProcess`.
    alpha
        The probability of a rollback, at any time, where all null hypotheses hold, and that of a
        promotion where one of the bounds is reached or exceeded; at most.
    most
        The number of requests (pairs, in split traffic) after which it is undecided.

    Raises
    ------
    ValueError
        No test, or numbers out of range.
    """

    tests: Mapping[str, EProcess]
    alpha: float = 0.05
    most: int = 10_000

    def __post_init__(self) -> None:
        if all(isinstance(test, MixProcess) for test in self.tests.values()):
            raise ValueError("a canary needs a test that can show it safe: of errors, say")
        if not 0 < self.alpha < 1 or self.most < 1:
            raise ValueError(f"alpha {self.alpha} or most {self.most} is out of range")

    def updated(self, outcomes: Mapping[str, Any]) -> Canary:
        """Return the canary after more outcomes; once it is decided, it stays as it is.

        Parameters
        ----------
        outcomes
            By the name of the test, as its ``updated`` takes them. What is not known yet is left
            out, and may come in a call of its own.

        Raises
        ------
        ValueError
            A name that is none of a test, or an outcome that is not possible.
        """
        if unknown := set(outcomes) - set(self.tests):
            raise ValueError(f"no test {sorted(unknown)}; there are {', '.join(self.tests)}")
        if self.decision != "continue":
            return self
        new = {name: self.tests[name].updated(outcome) for name, outcome in outcomes.items()}
        return replace(self, tests={**self.tests, **new})

    @property
    def n(self) -> int:
        """The number of requests: outcomes of the test that has most."""
        return max(test.n for test in self.tests.values())

    @property
    def e_value(self) -> float:
        """The mean of the e-values, itself one however the tests depend on each other."""
        return sum(test.e_value for test in self.tests.values()) / len(self.tests)

    @property
    def decision(self) -> Decision:
        """What to do now; undecided is for a rollback too, for want of evidence."""
        if self.e_value >= 1 / self.alpha:
            return "rollback"
        if all(test.settled(self.alpha) for test in self.tests.values()):
            return "promote"
        return "undecided" if self.n >= self.most else "continue"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Canary:
        """Return the canary of `as_dict`.

        Raises
        ------
        ValueError
            A state that no canary has.
        """
        try:
            tests = {
                name: (MixProcess if "leads" in test else EProcess)(**test)
                for name, test in state["tests"].items()
            }
            return cls(**{**state, "tests": tests})
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not the state of a canary ({error!r}): start it again") from error
