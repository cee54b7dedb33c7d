"""The held-out rows of a data version, and the only function that returns them.

Only ``nivesh release`` may call it (tests/test_holdout_guard.py), since a score on held-out rows
is an unbiased estimate only as long as no choice was based on them. Every opening is in the
ledger, on disk, before a row is returned.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

# Private, since no public function returns both sides of the split.
from nivesh_lib.data.versions import _read_sides, resolve
from nivesh_lib.errors import HoldoutError
from nivesh_lib.ledger import NO_SCORES, Opening, openings, writing
from nivesh_lib.privacy import anonymize_query


@dataclass(frozen=True, eq=False)
class Holdout:
    """Held-out rows and the recorded opening.

    ``rows`` has the columns id, query, intent (``kind`` for an out-of-scope set) and the
    optional ones that the data has.
    """

    opening: Opening
    rows: pd.DataFrame


def check_opening(ref: str, *, model_hash: str, reason: str = "") -> None:
    """Run the checks of `open_holdout` without opening anything.

    Raises
    ------
    HoldoutError
        The version holds nothing out, or was opened for this model and there is no reason.
    DataError
        There is no such version, or the ledger is damaged or cannot be written.
    """
    version = resolve(ref)
    if not version.manifest["holdout"]:
        raise HoldoutError(f"{version.ref} has no held-out rows; publish a version with some.")
    with writing() as ledger:
        _refuse_repetition(openings(ledger.entries), version.ref, model_hash, reason)


def open_holdout(
    ref: str,
    *,
    who: str,
    why: str,
    commit: str,
    model_hash: str,
    model: str = "",
    reason: str = "",
) -> Holdout:
    """Return the held-out rows, after the opening is in the ledger and on disk.

    Parameters
    ----------
    who, why, commit, model_hash
        The ledger's entry; an empty one is refused.
    model
        The name of the model for a person.
    reason
        Why this model is evaluated on these rows a second time; required then.

    Raises
    ------
    HoldoutError
        As `check_opening`, an entry is empty, or this is a notebook.
    DataError
        The rows are not those that were published, or the ledger cannot be written.
    """
    entry = {"who": who, "why": why, "commit": commit, "model_hash": model_hash}
    empty = [key for key, value in entry.items() if not str(value or "").strip()]
    if empty:
        raise HoldoutError(
            f"The holdout of {ref} stays closed: {', '.join(empty)} is empty. "
            "`nivesh release` fills the ledger."
        )
    # A line of the ledger can never be taken back.
    entry["why"], reason = anonymize_query(why), anonymize_query(reason.strip())
    _refuse_notebooks(ref)
    check_opening(ref, model_hash=model_hash, reason=reason)
    version = resolve(ref)
    frame = _read_sides(version)  # before the ledger: rows that cannot be read are not opened
    held = frame[frame["side"] == "holdout"].drop(columns=["side", "fold"]).reset_index(drop=True)
    data = {"data": version.ref, "sha256": version.sha256, "rows": len(held)}
    with writing() as ledger:
        _refuse_repetition(openings(ledger.entries), version.ref, model_hash, reason)
        ledger.append("opening", {**entry, "model": model, "reason": reason, **data})
        opening = openings(ledger.entries)[-1]
    return Holdout(opening, held.rename(columns={"intent": version.label_column}))


def record_scores(opening: Opening, scores: Mapping[str, Any]) -> None:
    """Append the scores of an opening, once.

    Raises
    ------
    HoldoutError
        The ledger has no such opening, or has its scores already.
    """
    with writing() as ledger:
        found = next((o for o in openings(ledger.entries) if o.id == opening.id), None)
        if found is None or found.scores is not None:
            why = "is not in the ledger" if found is None else "has its scores already"
            raise HoldoutError(f"The opening {opening.id[:8]} of {opening.data} {why}.")
        ledger.append("scores", {"opening": opening.id, "scores": dict(scores)})


def record_latency(opening: Opening, scores: Mapping[str, Any]) -> None:
    """Append a latency that was measured again, and what changes with it, to an opening's scores.

    Raises
    ------
    HoldoutError
        The ledger has no such opening, or no scores of it.
    """
    with writing() as ledger:
        found = next((o for o in openings(ledger.entries) if o.id == opening.id), None)
        if found is None or found.scores is None:
            raise HoldoutError(f"The opening {opening.id[:8]} of {opening.data} has no scores.")
        ledger.append("latency", {"opening": opening.id, "scores": dict(scores)})


def _refuse_repetition(known: list[Opening], data: str, model_hash: str, reason: str) -> None:
    same = [o for o in known if (o.data, o.model_hash) == (data, model_hash)]
    if not same or reason.strip():
        return
    last = same[-1]
    scored = "" if last.scores is not None else f" ({NO_SCORES})"
    raise HoldoutError(
        f"The holdout of {data} was opened for model {model_hash[:8]} before: "
        f"{last.timestamp} by {last.who}{scored}. A second look needs a reason, which the ledger "
        "keeps: --reason TEXT."
    )


def _refuse_notebooks(ref: str) -> None:
    kernel = sys.modules.get("ipykernel.kernelapp")
    if kernel is not None and kernel.IPKernelApp.initialized():
        raise HoldoutError(
            f"The holdout of {ref} stays closed to notebooks, which are run again and again. "
            "`nivesh release --evaluate-only` opens it."
        )
