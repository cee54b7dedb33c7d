"""The holdout ledger: every opening of held-out rows, and the scores that resulted.

``data/holdout_ledger.jsonl`` is only ever appended to; see `hash_chain`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.hash_chain import Entry, HashChain, Writer

# The two cannot be distinguished in a ledger: scores are written last.
NO_SCORES = "no scores: it is still judging, or ended before there were any"
_OPENING = dict.fromkeys(
    ("timestamp", "who", "why", "reason", "commit", "model", "model_hash", "data", "sha256"), str
) | {"rows": int}
_SCORES = {"timestamp": str, "opening": str, "scores": dict}
# Latency is no score of held-out rows: it may be measured again for an opening that has scores.
_SHAPES = {"opening": _OPENING, "scores": _SCORES, "latency": _SCORES}


@dataclass(frozen=True)
class Opening:
    """One opening of the held-out rows of one data version.

    ``number`` counts the openings of this data version, ``of_model`` those of them for this
    model, from 1. ``scores`` is None while the process is running, and remains None where it
    ended before it recorded any; a latency that was measured again has taken the place of the
    first. ``git`` is empty in lines of older versions.
    """

    id: str
    timestamp: str
    who: str
    why: str
    reason: str
    commit: str
    model: str
    model_hash: str
    data: str
    sha256: str
    rows: int
    number: int
    of_model: int
    scores: Mapping[str, Any] | None
    git: str = ""


def ledger_path() -> Path:
    """Return the path of the ledger; it may not exist yet."""
    return paths.data_dir() / "holdout_ledger.jsonl"


def read_ledger() -> list[Entry]:
    """Return the verified entries, oldest first; raises DataError as `HashChain.read`."""
    return _chain().read()


def writing() -> AbstractContextManager[Writer]:
    """Hold the verified ledger for one writer; raises DataError as `HashChain.writing`."""
    return _chain().writing()


def _chain() -> HashChain:
    return HashChain(ledger_path(), "ledger", _SHAPES, "openings stay recorded", _objection)


def _objection(entry: Entry, above: list[Entry]) -> str:
    """Return why scores have no opening above them to be of, or have taken their place before."""
    kind = entry["kind"]
    if kind == "opening":
        return ""
    scored = any((e["kind"], e.get("opening")) == ("scores", entry["opening"]) for e in above)
    opened = any((e["kind"], e["id"]) == ("opening", entry["opening"]) for e in above)
    if opened and scored == (kind == "latency"):
        return ""
    has = "has some already" if kind == "scores" else "has none yet"
    return f"{kind} of an opening that is not above it, or {has}"


def openings(entries: list[dict[str, Any]] | None = None) -> list[Opening]:
    """Return every opening with its counts and scores, oldest first."""
    entries = read_ledger() if entries is None else entries
    scores: dict[str, dict[str, Any]] = {}
    for entry in (e for e in entries if e["kind"] != "opening"):
        scores[entry["opening"]] = scores.get(entry["opening"], {}) | entry["scores"]
    of_data: Counter[str] = Counter()
    of_model: Counter[tuple[str, str]] = Counter()
    found = []
    for entry in (e for e in entries if e["kind"] == "opening"):
        of_data[entry["data"]] += 1
        of_model[entry["data"], entry["model_hash"]] += 1
        found.append(
            Opening(
                id=entry["id"],
                **{name: entry[name] for name in _OPENING},
                number=of_data[entry["data"]],
                of_model=of_model[entry["data"], entry["model_hash"]],
                scores=scores.get(entry["id"]),
                git=str(entry.get("git", "")),
            )
        )
    return found
