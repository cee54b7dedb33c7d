"""Simulated canaries: how often a rule rolls back what is no worse, how soon what is.

Canary and control get equally many requests, at constant rates, and every rule looks on until the
last. All see the same answers, except under *same queries*, where both answer each request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nivesh_lib.evaluation.sequential import log_e_values
from tests.evaluation.drift_rates import put_into, table_of

ALPHA, REQUESTS, BLOCK = 0.05, 10_000, 500
TOGETHER = 4_000  # requests where several things are watched
NEVER = REQUESTS + 1
LIMIT = -np.log(ALPHA)
Z_ONE_SIDED, Z_POWER, Z_KAYENTA = 1.6449, 0.8416, 2.3263  # 5 % on one side, 80 %, 98 % two-sided


@dataclass(frozen=True)
class Story:
    """A fault: its rate in a sound version and in a faulty one, and what is tolerated.

    ``labelled``: whether it is known, of a query that both answer, who is wrong.
    """

    sound: float
    faulty: float
    delta: float
    labelled: bool

    def cases(self) -> dict[str, tuple[float, float]]:
        """Return the rates of control and canary by what is the case."""
        return {
            "no difference": (self.sound, self.sound),
            "both get worse": (self.faulty, self.faulty),
            "as much worse as tolerated": (self.sound, self.sound + self.delta),
            "caught": (self.sound, self.faulty),
        }


STORIES = {
    "errors": Story(0.01, 0.03, 0.01, labelled=True),
    "agreement": Story(0.03, 0.08, 0.02, labelled=False),
}


def split(rng: np.random.Generator, rates: tuple[float, float], n: int) -> np.ndarray:
    """Return whether control and canary fail at each request, shape (2, n, REQUESTS)."""
    drawn = rng.random((2, n, REQUESTS), dtype=np.float32)
    return drawn < np.array(rates, dtype=np.float32)[:, None, None]


# --- rules: the first request at which they roll back, shape (n,) ---------------------


def first(alarms: np.ndarray, step: int = 1) -> np.ndarray:
    """Return the request of the first alarm of each row, NEVER where there is none."""
    return np.where(alarms.any(axis=1), step * (alarms.argmax(axis=1) + 1), NEVER)


def counts_of(outcomes: np.ndarray) -> np.ndarray:
    """Return how many outcomes were -1, 0 and 1 up to each request, shape (..., 3)."""
    low, high = (np.cumsum(outcomes == kind, axis=-1, dtype=np.int16) for kind in (-1, 1))
    both = np.arange(1, outcomes.shape[-1] + 1) - low - high
    return np.stack([low, both.astype(np.int16), high], axis=-1)


def rollback(outcomes: np.ndarray, bound: float, least: int = -1) -> np.ndarray:
    """Of the e-process, whose value rises at outcomes of 1 alone where the bound is not below 0."""
    worse = outcomes == 1
    alarms = np.zeros_like(worse)
    alarms[worse] = log_e_values(counts_of(outcomes)[worse], bound, least) >= LIMIT
    return first(alarms)


def promotion(outcomes: np.ndarray, bound: float, every: int = 10) -> np.ndarray:
    """The first request, of every tenth, at which the mean is shown below the bound."""
    counts = counts_of(outcomes)[:, every - 1 :: every, ::-1]
    return first(log_e_values(counts, -bound) >= LIMIT, every)


def z_test(failed: np.ndarray, delta: float, looks: slice = slice(99, None)) -> np.ndarray:
    """Of a one-sided z-test at each request from the hundredth on, or at others."""
    n = np.arange(1, REQUESTS + 1, dtype=np.float32)
    control, canary = np.cumsum(failed, axis=-1, dtype=np.float32) / n
    variance = (control * (1 - control) + canary * (1 - canary)) / n
    alarms = canary - control - delta > Z_ONE_SIDED * np.sqrt(variance)
    shown = np.zeros_like(alarms)
    shown[:, looks] = alarms[:, looks]
    return first(shown)


def one_look(failed: np.ndarray, story: Story) -> np.ndarray:
    """Of a z-test at the one request that finds the faulty version four times out of five."""
    variance = sum(rate * (1 - rate) for rate in (story.sound, story.faulty))
    excess = story.faulty - story.sound - story.delta
    at = int(np.ceil((Z_ONE_SIDED + Z_POWER) ** 2 * variance / excess**2))
    return z_test(failed, story.delta, slice(at - 1, at))


def threshold(failed: np.ndarray, story: Story, window: int, failures: int = 3) -> np.ndarray:
    """Of more than ``failures`` windows in which the canary fails too often (Argo, Flagger)."""
    rates = failed[1].reshape(len(failed[1]), -1, window).mean(axis=-1)
    return first(np.cumsum(rates > story.sound + story.delta, axis=-1) > failures, window)


def kayenta(failed: np.ndarray, window: int = 100) -> np.ndarray:
    """Of Kayenta's judge on error ratios of windows, after each of them.

    The metric is "high" where the interval of the shift (Mann-Whitney, 0.98) lies above a quarter
    of the estimated shift. Counts are whole, so that z jumps at whole shifts, and is 0 there.
    """
    samples = failed.reshape(*failed.shape[:2], -1, window).sum(axis=-1)
    alarms = np.zeros(samples.shape[1:], dtype=bool)
    for look in range(1, samples.shape[2]):
        z = mann_whitney(*samples[..., : look + 1])
        low, estimate = (z > Z_KAYENTA).sum(axis=-1), (z > 0).sum(axis=-1)
        alarms[:, look] = low > 0.25 * estimate
    return first(alarms, window)


def mann_whitney(control: np.ndarray, canary: np.ndarray) -> np.ndarray:
    """Return z of the canary's counts less 0.5, 1.5, … against the control's, (rows, shifts)."""
    rows, n = control.shape
    most = int(max(control.max(), canary.max())) + 1
    cells = np.arange(rows)[:, None] * most
    y, x = (
        np.bincount((cells + side).ravel(), minlength=rows * most).reshape(rows, most)
        for side in (control, canary)
    )
    below = np.cumsum(y, axis=1)
    shifts = range(most - 1)
    u = np.stack([(x[:, k + 1 :] * below[:, : most - k - 1]).sum(axis=1) for k in shifts], axis=1)
    ties = sum((side**3 - side).sum(axis=1) for side in (x, y))
    sigma = np.sqrt(n * n / 12 * (2 * n + 1 - ties / (2 * n * (2 * n - 1))))
    apart = u - n * n / 2
    return (apart - 0.5 * np.sign(apart)) / sigma[:, None]


def paired(failed: np.ndarray) -> np.ndarray:
    """Return the outcomes of pairs of requests in order of arrival."""
    return failed[1].astype(np.int8) - failed[0]


SAME = "e-process, same queries"
RULES: dict[str, Callable[[np.ndarray, Story], np.ndarray]] = {
    "e-process, split traffic": lambda failed, story: rollback(paired(failed), story.delta),
    "the same, nothing tolerated": lambda failed, _: rollback(paired(failed), 0.0),
    "Kayenta": lambda failed, _: kayenta(failed),
    "threshold, windows of 100": lambda failed, story: threshold(failed, story, 100),
    "threshold, windows of 500": lambda failed, story: threshold(failed, story, 500),
    "z-test, nothing tolerated": lambda failed, _: z_test(failed, 0.0),
    "z-test": lambda failed, story: z_test(failed, story.delta),
    "z-test, one look": one_look,
}


def same_queries(
    rng: np.random.Generator, story: Story, rates: tuple[float, float], n: int
) -> tuple[np.ndarray, float, int]:
    """Return outcomes of queries that both answer, their bound, and the smallest outcome.

    Without labels it is tested whether they disagree more often than a sound version would.
    """
    drawn, (control, canary) = rng.random((n, REQUESTS), dtype=np.float32), rates
    if not story.labelled:
        return (drawn < canary).astype(np.int8), story.sound + story.delta, 0
    # Of the queries that control gets wrong, the canary gets every other one wrong too.
    worse, better = drawn < canary - control / 2, drawn > 1 - control / 2
    return worse.astype(np.int8) - better, story.delta, -1


# --- tables ----------------------------------------------------------------------


def rollbacks(story: Story, rates: tuple[float, float], canaries: int) -> dict[str, np.ndarray]:
    """Return when each rule rolls back each canary."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in (SAME, *RULES)}
    for seed in range(canaries // BLOCK):
        rng = np.random.default_rng(seed)
        found[SAME].append(rollback(*same_queries(rng, story, rates, BLOCK)))
        failed = split(rng, rates, BLOCK)
        for name, rule in RULES.items():
            found[name].append(rule(failed, story))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def percent(mask: np.ndarray) -> str:
    """Return the share of true values in per cent."""
    return f"{100 * mask.mean():.1f} %"


def median(when: np.ndarray) -> str:
    """Return the median request; a dash where half never get there."""
    return f"{np.median(when):,.0f}" if np.median(when) < NEVER else "–"


def comparison(story: Story, canaries: int, others: int) -> list[dict[str, str]]:
    """Return the rates of all rules, with more canaries where there is no difference."""
    rows = {name: {"rule": name} for name in (SAME, *RULES)}
    for case, rates in story.cases().items():
        found = rollbacks(story, rates, canaries if case == "no difference" else others)
        for name, when in found.items():
            # Two versions that both get worse disagree more or less: nothing follows.
            unknown = name == SAME and case == "both get worse" and not story.labelled
            rows[name][case] = "" if unknown else percent(when < NEVER)
            if case == "caught":
                rows[name]["median request"] = median(when)
    return list(rows.values())


def decisions(n: int) -> list[dict[str, str]]:
    """Return what becomes of canaries that end with a decision, in both designs."""
    rows = []
    for (name, story), same in ((one, same) for one in STORIES.items() for same in (True, False)):
        row = {"watched": f"{name}, {'same queries' if same else 'split traffic'}"}
        for case, rates in story.cases().items():
            rng = np.random.default_rng(1)
            outcomes, bound, least = (
                same_queries(rng, story, rates, n)
                if same
                else (paired(split(rng, rates, n)), story.delta, -1)
            )
            back, on = rollback(outcomes, bound, least), promotion(outcomes, bound)
            promoted = on < back
            if case == "no difference":
                row |= {"no difference: promoted": percent(promoted), "median request": median(on)}
                row["rolled back"] = percent(back < on)
            elif case == "as much worse as tolerated":
                row["as tolerated: promoted"] = percent(promoted)
                row["undecided"] = percent((on == NEVER) & (back == NEVER))
            elif case == "caught":
                row["worse: promoted"] = percent(promoted)
        rows.append(row)
    return rows


def labels(rng: np.random.Generator, n: int, moved: float) -> np.ndarray:
    """Return labels of control and canary, shape (2, requests, n); some of the canary's are moved.

    The 14 labels are equally frequent, and a share ``moved`` of the canary's answers becomes one.
    """
    drawn = rng.integers(0, 14, (2, TOGETHER, n))
    drawn[1][rng.random((TOGETHER, n)) < moved] = 0
    return drawn


def mixes(drawn: np.ndarray) -> np.ndarray:
    """Return the outcomes that `MixProcess` makes of labels, shape (n, requests)."""
    leads, rows = np.zeros((drawn.shape[2], 14), dtype=int), np.arange(drawn.shape[2])
    outcomes = np.empty(drawn.shape[1:], dtype=np.int8)
    for request, (control, canary) in enumerate(zip(*drawn, strict=True)):
        outcomes[request] = (leads[rows, canary] > 0).astype(np.int8) - (leads[rows, control] > 0)
        leads[rows, canary] += 1
        leads[rows, control] -= 1
    return outcomes.T


def averaged(outcomes: list[np.ndarray], bounds: tuple[float, ...]) -> np.ndarray:
    """Return when the mean of the e-values of several tests rolls back."""
    worse = np.any([one == 1 for one in outcomes], axis=0)
    logs = [
        log_e_values(counts_of(one)[worse], bound)
        for one, bound in zip(outcomes, bounds, strict=True)
    ]
    alarms = np.zeros_like(worse)
    alarms[worse] = np.logaddexp.reduce(logs) - np.log(len(logs)) >= LIMIT
    return first(alarms)


def together(canaries: int, others: int) -> list[dict[str, str]]:
    """Return what becomes of canaries of which errors, latency and mix are watched at once."""
    rows = []
    for title, (wrong, slow, moved) in {
        "no difference": (0.01, 0.05, 0.0),
        "errors 1 to 3 %": (0.03, 0.05, 0.0),
        "slow answers 5 to 10 %": (0.01, 0.10, 0.0),
        "14 % of the answers moved to one label": (0.01, 0.05, 0.15),
    }.items():
        when = []
        for seed in range((canaries if title == "no difference" else others) // BLOCK):
            rng = np.random.default_rng(seed)
            pairs = [
                paired(split(rng, rates, BLOCK)[..., :TOGETHER])
                for rates in ((0.01, wrong), (0.05, slow))
            ]
            when.append(averaged([*pairs, mixes(labels(rng, BLOCK, moved))], (0.01, 0.02, 0.05)))
        found = np.concatenate(when)
        rows.append(
            {
                "what is the case": title,
                "rolled back": percent(found < NEVER),
                "median request": median(found),
            }
        )
    return rows


def markdown(rows: list[dict[str, str]]) -> str:
    """Return rows as a table; the first column is of words."""
    lines = [list(rows[0]), ["---", *["---:"] * (len(rows[0]) - 1)], *(r.values() for r in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def tables(canaries: int, others: int) -> dict[str, list[dict[str, str]]]:
    """Return all tables of the page by their names."""
    return {
        **{name: comparison(story, canaries, others) for name, story in STORIES.items()},
        "decisions": decisions(others // 2),
        "together": together(canaries, others),
    }


def markers(name: str) -> tuple[str, str]:
    """Return what stands before and behind a table of the page."""
    made = "made by tests/evaluation/test_canary_rates.py"
    return f"<!-- canary-{name}:start ({made}) -->", f"<!-- canary-{name}:end -->"


def write(page: Path, canaries: int, others: int) -> None:
    """Put all tables into the page."""
    size = f"{canaries:,} canaries without a difference, {others:,} of each other kind.\n\n"
    for name, rows in tables(canaries, others).items():
        said = f"{others // 2:,} canaries of each kind.\n\n" if name == "decisions" else size
        put_into(page, said + markdown(rows), *markers(name))


def read(page: Path, name: str) -> list[dict[str, str]]:
    """Return a table of the page."""
    return table_of(page, *markers(name))
