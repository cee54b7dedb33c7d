"""The release log: what was released, promoted, rolled back and archived, when, by whom and why.

``data/release_log.jsonl`` is only ever appended to (`hash_chain`). It alone decides which version
is in staging and in production; aliases in the registry are a view of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from nivesh_lib import paths
from nivesh_lib.errors import ReleaseError
from nivesh_lib.hash_chain import Entry, HashChain, Writer

STAGES = ("staging", "production")  # those that a version is promoted to
# Of a canary: the first, those on the way with the share of users in percent, and how one ends
# that is not promoted.
SHARES = {"shadow": 0, "10": 10, "25": 25, "50": 50}
ENDS = ("rolled back", "aborted")
_COMMON = dict.fromkeys(("timestamp", "name", "version", "digest", "who", "why"), str)
_SHAPES: dict[str, dict[str, Any]] = {
    "release": _COMMON | {"registered": str, "records?": str},
    "promotion": _COMMON
    | {"stage": str, "override": str, "gates": [dict], "archive_replaced": bool, "canary?": dict},
    "canary": _COMMON
    | {"step": str, "override": str, "gates": [dict], "settings": dict, "evidence": dict},
    "rollback": _COMMON | {"leaves": str},
    "archive": _COMMON,
}


def _chain() -> HashChain:
    return HashChain(
        paths.release_log(), "release log", _SHAPES, "what was released stays recorded", _objection
    )


def registered_name(dataset: str) -> str:
    """Return the registered name of the models of a dataset, given with or without its version."""
    name = dataset.partition("@")[0]
    return "intent_classifier" if name == "intents" else f"{name}_classifier"


def read_log(name: str = "") -> list[Entry]:
    """Return the verified entries, oldest first, of one registered model or of all.

    Raises
    ------
    DataError
        A line was edited, removed, moved or cut short; the message names it.
    """
    return [entry for entry in _chain().read() if name in ("", entry["name"])]


def writing() -> AbstractContextManager[Writer]:
    """Hold the verified log for one writer; raises DataError as `HashChain.writing`."""
    return _chain().writing()


def _objection(entry: Entry, above: list[Entry]) -> str:
    """Return why an entry is of no release above it, or of another one of that version."""
    own = [e for e in above if all(e[k] == entry[k] for k in ("name", "version"))]
    if entry["kind"] == "release":
        return _second_release(entry, own[0], above) if own else ""
    if not own:
        return f"{entry['kind']} of a version that was never released"
    if own[0]["digest"] != entry["digest"]:
        return "names another digest than was released"
    if entry["kind"] == "canary" and entry["step"] not in (*SHARES, *ENDS):
        return "is a step that no canary has"
    served = entry["kind"] == "promotion" or entry.get("step") == "shadow"
    missed = any(gate.get("verdict") != "met" for gate in entry.get("gates", []))
    if served and (not entry["gates"] or missed > bool(entry["override"])):
        return "promotes a version without its gates or a reason why one that is not met is passed"
    return ""


def _second_release(entry: Entry, first: Entry, above: list[Entry]) -> str:
    """Return what to do about a version that is in the log twice, as of two merged branches."""
    own = [first]  # what follows from the first
    for one in above[above.index(first) + 1 :]:
        own += [one] if one["previous"] == own[-1]["id"] else []
    if entry["previous"] == own[-1]["id"]:
        return "releases a version for a second time"
    number, last, here = (*(above.index(one) + 1 for one in (first, own[-1])), len(above) + 1)
    return (
        f"releases {entry['version']} ({entry['who']}), as line {number} does ({first['who']}): "
        "two branches did so and were merged. Keep the release of one: delete "
        f"line {here} and those below it, or lines {number} to {last}; commit that, and release "
        "the other model again."
    )


@dataclass(frozen=True)
class State:
    """Which version is where. ``past`` are those that were in production, oldest first.

    ``since`` are the times at which a version came to where it is, ``staged`` those at which it
    was last promoted to staging, ``overridden`` the versions in production by an override, and
    ``failed`` those that were rolled back from. ``canary`` is the entry with which the canary that
    is on began, with ``step``, ``evidence``, ``timestamp`` and ``id`` of its last one and the
    first one's ``id`` as ``start``; empty where none is on.
    """

    staging: str = ""
    production: str = ""
    previous: str = ""
    stages: dict[str, str] = field(default_factory=dict)
    since: dict[str, str] = field(default_factory=dict)
    staged: dict[str, str] = field(default_factory=dict)
    past: tuple[str, ...] = ()
    overridden: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    canary: Entry = field(default_factory=dict)


def state_of(entries: Iterable[Entry], at: str = "9999") -> State:
    """Return the state that the entries of one name lead to, up to a time (UTC, ISO 8601)."""
    state = State()
    for entry in entries:
        if entry["timestamp"] <= at:
            state = _after(state, entry)
    return state


def _after(state: State, entry: Entry) -> State:
    version, kind, before = entry["version"], entry["kind"], state.stages
    stages = dict(before)
    if kind == "canary":
        return replace(state, canary=_canary(state, entry))
    if kind == "release":
        stages[version] = "Development"
    elif kind == "archive":
        stages[version] = "Archived"
        places = ("staging", "production", "previous")
        left: dict[str, Any] = {one: "" for one in places if getattr(state, one) == version}
        ends = version in (state.production, state.canary.get("version"))
        state = replace(state, canary={} if ends else state.canary, **left)
    elif entry.get("stage") == "staging":
        if state.staging:
            stages[state.staging] = "Development"
        stages[version] = "Staging"
        staged = {**state.staged, version: entry["timestamp"]}
        state = replace(state, staging=version, staged=staged)
    else:
        state = _served(state, entry, stages)
    moved = {v for v, stage in stages.items() if stage != before.get(v)} | {version}
    since = dict.fromkeys(moved, str(entry["timestamp"]))
    return replace(state, stages=stages, since=state.since | since)


def _canary(state: State, entry: Entry) -> Entry:
    """Return the canary that is on after a line about one.

    A line that does not follow, as of two merged branches, changes nothing.
    """
    on, version, step = state.canary, entry["version"], entry["step"]
    if step == "shadow" and not on and state.production not in ("", version):
        return {**entry, "start": entry["id"]}
    if not on or on["version"] != version or step == "shadow":
        return on
    if step in ENDS:
        return {}
    return {**on, **{key: entry[key] for key in ("step", "evidence", "timestamp", "id")}}


def _served(state: State, entry: Entry, stages: dict[str, str]) -> State:
    """Return the state after a version came into production, by promotion or by rollback.

    A canary was compared with what served before, so it ends.
    """
    version, left = entry["version"], state.production
    rolled_back = entry["kind"] == "rollback"
    if left:
        archived = rolled_back or entry["archive_replaced"]
        stages[left] = "Archived" if archived else "Staging"
    stages[version] = "Production"
    failed = (state.failed | {left}) if rolled_back else state.failed - {version}
    past = (*(one for one in state.past if one != version), version)
    override = state.overridden - {version} | ({version} if entry.get("override") else set())
    before = [one for one in past[:-1] if one not in failed]
    return replace(
        state,
        staging="" if state.staging == version else state.staging,
        production=version,
        previous=before[-1] if before else "",
        past=past,
        failed=failed,
        overridden=state.overridden if rolled_back else frozenset(override),
        canary={},
    )


def last_canary(entries: Iterable[Entry]) -> dict[str, Any] | None:
    """Return the version of the canary that ended last, and the ``line`` that ended it.

    That may be one about another version, such as a promotion. None where no canary has ended.
    """
    state, found = State(), None
    for entry in entries:
        before, state = state.canary, _after(state, entry)
        if before and not state.canary:
            found = {"version": before["version"], "line": entry}
    return found


def nothing_released(name: str) -> str:
    """Return a sentence for where the log has no line of a registered model."""
    return f"{name}: nothing was released by that name in {paths.home()}"


def stays(entries: Iterable[Entry]) -> list[dict[str, str]]:
    """Return where each version was and when: version, stage, start and end ("" where it is now).

    The first one came first.
    """
    found: list[dict[str, str]] = []
    latest: dict[str, dict[str, str]] = {}
    state = State()
    for entry in entries:
        state = _after(state, entry)
        for version, stage in state.stages.items():
            if version not in latest or latest[version]["stage"] != stage:
                latest.get(version, {})["end"] = entry["timestamp"]
                stay = {"version": version, "stage": stage, "start": entry["timestamp"], "end": ""}
                latest[version] = stay
                found.append(stay)
    return found


def released(entries: Iterable[Entry], version: str) -> Entry:
    """Return the entry of a release.

    Raises
    ------
    ReleaseError
        There is none of that version.
    """
    found = [entry for entry in entries if entry["kind"] == "release"]
    wanted = version.removeprefix("v")
    for entry in found:
        if entry["version"] == wanted:
            return entry
    there = ", ".join(entry["version"] for entry in found) or "none yet"
    raise ReleaseError(
        f"{version}: was never released. Released: {there}; `nivesh history` tells more, and "
        "`nivesh release` makes one"
    )
