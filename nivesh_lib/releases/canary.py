"""A canary: a release that is rolled out beside the one in production, in steps.

In *shadow*, production answers everybody and the canary the same queries. Then it answers 10, 25
and 50 percent of the users, compared with as many who are answered by production's own release.
Each step begins with no evidence and ends when it tells enough (`evaluation.sequential`): the next
one begins, or the canary is rolled back; after the last, it is promoted. A share of ``alpha`` is
each step's, so that a release no worse than production is rolled back with probability ``alpha``
at most.

The state is in the release log alone. What was counted at a step lies in a file beside the
packages; where that is lost, the step begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.errors import ReleaseError
from nivesh_lib.evaluation.sequential import Canary, EProcess, MixProcess
from nivesh_lib.hash_chain import Entry
from nivesh_lib.records.base import plain, write_json
from nivesh_lib.records.schema import read_object
from nivesh_lib.releases.log import (
    SHARES,
    last_canary,
    nothing_released,
    read_log,
    released,
    state_of,
    writing,
)
from nivesh_lib.releases.package import Package
from nivesh_lib.releases.promotion import (
    append,
    changed,
    changing,
    gated_line,
    line_about,
    one_line,
)

Counts = dict[str, tuple[int, int, int]]  # name of a test -> outcomes -1, 0 and 1
SLOW = 0.1  # seconds of the model for one query, the seed's target for a whole request
_TITLES = {
    "errors": "queries that it fails or hands to a person",
    "slow": f"answers above {SLOW * 1_000:g} ms",
    "disagreement": "answers other than production's",
    "mix": "the mix of intents",
}


@dataclass(frozen=True)
class Settings:
    """How a canary is judged.

    Parameters
    ----------
    delta
        How many more of its queries may fail, go to a person, or be slow, as a share of all.
    alpha
        The probability of a rollback, at most, of a release within these limits.
    max_requests
        Pairs of requests after which a step that is undecided ends in a rollback.
    disagreement
        The share of queries, at most, that it may answer otherwise than production. Two releases
        that are each right for nine of ten queries differ on two of ten at most. In shares of
        users, the most that their mixes of intents may differ by.
    at_once
        From shadow to everybody (blue and green), without shares between.

    Raises
    ------
    ReleaseError
        A number is out of range.
    """

    delta: float = 0.05
    alpha: float = 0.05
    max_requests: int = 10_000
    disagreement: float = 0.2
    at_once: bool = False

    def __post_init__(self) -> None:
        shares = {key: getattr(self, key) for key in ("delta", "alpha", "disagreement")}
        if wrong := [f"{key} {one:g}" for key, one in shares.items() if not 0 < one < 1]:
            raise ReleaseError(f"{', '.join(wrong)}: give a share between 0 and 1")
        if self.max_requests < 1:
            raise ReleaseError(f"max_requests {self.max_requests}: give a number from 1")

    @property
    def steps(self) -> list[str]:
        """The steps before everybody is answered by it."""
        return ["shadow"] if self.at_once else list(SHARES)


def start(
    version: str,
    settings: Settings,
    *,
    name: str = "intent_classifier",
    override: str = "",
    why: str = "",
) -> Entry:
    """Begin the canary of a released version that passes the gates of production.

    Raises
    ------
    ReleaseError
        Nothing or this version is in production, this one is archived, the package of the one in
        production is missing or altered, a canary is on already, or as `promote`.
    """
    with changing(name):
        entries = read_log(name)
        entry = released(entries, version)
        state = state_of(entries)
        if state.canary:
            on = state.canary
            raise ReleaseError(
                f"{on['version']} is a canary already, since {on['timestamp']}. Wait for its end "
                "(`nivesh canary status`), or `nivesh canary abort`"
            )
        if not state.production:
            raise ReleaseError(
                "nothing is in production, so there is nothing to compare with. "
                f"`nivesh promote {entry['version']} --to production`"
            )
        if state.production == entry["version"]:
            raise ReleaseError(f"{entry['version']} is in production already; start another one")
        if state.stages[entry["version"]] == "Archived":
            raise ReleaseError(
                f"{entry['version']} was archived or rolled back. To have it judged again: "
                f"nivesh promote {entry['version']} --to staging"
            )
        Package.of(name, state.production).verify(released(entries, state.production))
        line = gated_line(entry, entries, "production", override)
        line |= {"why": why or f"compared with {state.production}", "step": "shadow"}
        return append("canary", line | {"settings": asdict(settings), "evidence": {}})


def abort(*, name: str = "intent_classifier", why: str = "") -> Entry:
    """End the canary that is on; production stays. Raises ReleaseError where none is on."""
    while on := state_of(read_log(name)).canary:
        found = evidence(on, counts_of(on))
        if added := _step(on, "aborted", found, why or "aborted by hand"):
            return added
    raise ReleaseError("no canary is on, so there is nothing to abort")


def status(name: str = "intent_classifier") -> dict[str, Any]:
    """Return the canary that is on, its evidence and what comes next.

    ``version`` is empty where none is on; then ``last`` is the version of the last one and the
    line with which it ended, if there was any.

    Raises
    ------
    ReleaseError
        Nothing was released by that name.
    """
    entries = read_log(name)
    if not entries:
        raise ReleaseError(nothing_released(name))
    state = state_of(entries)
    if not (on := state.canary):
        return {"version": "", "last": last_canary(entries)}
    steps = [*Settings(**on["settings"]).steps, "everybody, by promotion"]
    following = steps[steps.index(on["step"]) + 1]
    return {
        "version": on["version"],
        "against": state.production,
        "step": on["step"],
        "since": on["timestamp"],
        "share": SHARES[on["step"]],
        "next": f"{following}{' % of users' if following in SHARES else ''}, or rolled back",
        "settings": on["settings"],
        **evidence(on, counts_of(on)),
    }


def advance(on: Entry, found: Mapping[str, Any]) -> Entry | None:
    """Append what follows from decided evidence; return the line, or None where it is there.

    Parameters
    ----------
    on
        The canary as in `State`, at the step that the evidence is of.
    found
        As `evidence` returns it.

    Raises
    ------
    NiveshError
        The log cannot be written; of a promotion, as `promote`.
    """
    steps = Settings(**on["settings"]).steps
    following = steps[steps.index(on["step"]) + 1 :]
    if found["decision"] != "promote":
        return _step(on, "rolled back", found, found["reason"])
    if following:
        return _step(on, following[0], found, found["reason"])
    name = on["name"]
    with changing(name):
        entries = read_log(name)
        if state_of(entries).canary.get("id") != on["id"]:
            return None
        Package.of(name, on["version"]).verify(released(entries, on["version"]))
        line = line_about(on, found["reason"]) | {
            **_by_server(on),
            "stage": "production",
            "archive_replaced": False,
            "canary": dict(found),
            **{key: on[key] for key in ("override", "gates")},
        }
        return changed("promotion", line).entry


def end(on: Entry, why: str) -> Entry | None:
    """Roll a canary back for another reason than its evidence; see `advance`."""
    return _step(on, "rolled back", evidence(on, counts_of(on)), why)


def _step(on: Entry, step: str, found: Mapping[str, Any], why: str) -> Entry | None:
    """Append a line, or return None where the canary is not at that step any more.

    It waits for no change of releases that is under way: registry and cards tell nothing of these.
    """
    line = line_about(on, one_line(why)) | {
        "step": step,
        **({} if step == "aborted" else _by_server(on)),
        "override": "",
        "gates": [],
        "settings": on["settings"],
        "evidence": dict(found),
    }
    with writing() as log:
        own = [entry for entry in log.entries if entry["name"] == on["name"]]
        if state_of(own).canary.get("id") != on["id"]:
            return None  # another worker, or a person, was faster
        log.append("canary", line)
        return log.entries[-1]


def _by_server(on: Entry) -> dict[str, str]:
    """Return who took a step that nobody took by hand."""
    starter = next((e["who"] for e in read_log(on["name"]) if e["id"] == on["start"]), on["who"])
    return {"who": f"a server (canary of {starter})"}


# --- evidence ----------------------------------------------------------------------------------


def tests_of(on: Entry) -> list[str]:
    """Return the names of the tests at the step of a canary."""
    return ["errors", "slow", "disagreement" if on["step"] == "shadow" else "mix"]


def judged(on: Entry, counts: Mapping[str, tuple[int, int, int]]) -> Canary:
    """Return the tests after so many outcomes."""
    settings = Settings(**on["settings"])
    limits = {"errors": settings.delta, "slow": settings.delta}
    tests = {key: EProcess(limit, counts=counts[key]) for key, limit in limits.items()}
    last = tests_of(on)[-1]
    if last == "mix":
        tests[last] = MixProcess(settings.disagreement, counts=counts[last])
    else:
        tests[last] = EProcess(settings.disagreement, least=0, counts=counts[last])
    share = settings.alpha / len(settings.steps)
    return Canary(tests, share, settings.max_requests)


def evidence(on: Entry, counts: Mapping[str, tuple[int, int, int]]) -> dict[str, Any]:
    """Return what is known at the step of a canary, for log and status.

    ``n`` pairs of requests; ``e_value``, which rolls back at ``bound``; ``low`` and ``high``, the
    confidence sequence of the difference of errors; ``decision``; and ``reason``, a sentence.
    """
    canary = judged(on, counts)
    low, high = canary.tests["errors"].interval(canary.alpha)
    known: dict[str, Any] = {
        "n": canary.n,
        "e_value": round(canary.e_value, 4),
        "bound": 1 / canary.alpha,
    }
    known |= {"low": round(low, 4), "high": round(high, 4), "decision": canary.decision}
    return {**known, "counts": {key: list(counts[key]) for key in canary.tests}} | {
        "reason": _reason(on, canary, low, high)
    }


def _reason(on: Entry, canary: Canary, low: float, high: float) -> str:
    step = "in shadow" if on["step"] == "shadow" else f"at {on['step']} %"
    errors = f"{100 * low:+.1f} to {100 * high:+.1f} points of queries more fail or are handed on"
    if canary.decision == "rollback":
        worst = max(canary.tests, key=lambda key: canary.tests[key].e_value)
        why = f"beyond the limit of {canary.tests[worst].bound:g}: {_TITLES[worst]}"
        return f"{step}, {canary.n:,} pairs: {why} (e-value {canary.e_value:.3g})"
    settled = {"promote": "within the limits", "undecided": "not decided, which is no promotion"}
    return f"{step}, {canary.n:,} pairs: {settled.get(canary.decision, 'not yet')}; {errors}"


def counts_file(name: str) -> Path:
    """Return the file of what was counted at the present step; it may not exist."""
    return paths.releases_dir() / name / "canary.json"


def counts_of(on: Entry) -> Counts:
    """Return what was counted at the step of a canary so far."""
    kept = _kept(on)
    found: Counts = {}
    for test in tests_of(on):
        low, same, high = kept["counts"].get(test, (0, 0, 0))
        found[test] = (low, same, high)
    return found


def _kept(on: Entry) -> dict[str, Any]:
    shape = {"step": str, "server": str, "totals": {"*": [int]}, "counts": {"*": [int]}}
    kept = read_object(counts_file(on["name"]), shape)
    empty = {"step": on["id"], "server": "", "totals": {}, "counts": {}}
    if kept is None or kept["step"] != on["id"]:
        return empty
    told = (*kept["totals"].values(), *kept["counts"].values())
    return kept if all(len(one) == 3 and min(one) >= 0 for one in told) else empty


def counted(on: Entry, server: str, totals: Counts) -> Counts:
    """Add what a server has counted since the last call, keep the sums, and return them.

    Parameters
    ----------
    server
        Names the process, or the workers, that ``totals`` are of and begin with.
    totals
        What it has counted since it started, at this step of this version.

    Raises
    ------
    DataError, OSError
        The file cannot be written.
    """
    kept, sums = _kept(on), counts_of(on)
    before = kept["totals"] if kept["server"] == server else totals
    for test, had in sums.items():
        known = before.get(test, (0, 0, 0))
        low, same, high = (h + n - b for h, n, b in zip(had, totals[test], known, strict=True))
        sums[test] = (low, same, high)
    new = plain({"step": on["id"], "server": server, "totals": totals, "counts": sums})
    if new != kept:
        write_json(counts_file(on["name"]), new)
    return sums
