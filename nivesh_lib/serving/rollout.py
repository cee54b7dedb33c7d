"""A canary in a server: who is answered by it, what is counted, and the verdict.

What is counted is outcomes of pairs, which add up over workers: an e-value depends on no more. One
worker, the one that holds a lock on the canary's package, looks at the sums and writes the log.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any, Literal, Self

from nivesh_lib.evaluation.sequential import MixProcess, Pairs
from nivesh_lib.files import locked
from nivesh_lib.hash_chain import Entry
from nivesh_lib.paths import release_log, releases_dir
from nivesh_lib.releases import canary as rules
from nivesh_lib.releases.log import SHARES
from nivesh_lib.releases.package import Package
from nivesh_lib.serving import metrics
from nivesh_lib.serving.classifier import IntentClassifier
from nivesh_lib.serving.flags import share_of, should_use_feature

FLAG = "use_new_intent_classifier"
_MOST = 100  # answers of one side that wait for one of the other; more are not counted
Side = Literal["", "canary", "control"]


@dataclass(frozen=True)
class Seen:
    """What counts of an answer; of one that failed, there is no intent."""

    error: bool
    slow: bool
    intent: str | None

    @classmethod
    def of(cls, answers: list[dict[str, Any]] | None, seconds: float) -> Self:
        """Return what counts of the first of some answers, None where they failed."""
        if answers is None:
            return cls(True, seconds > rules.SLOW, None)
        return cls(answers[0]["abstained"], seconds > rules.SLOW, answers[0]["intent"])


class Rollout:
    """The canary that is on, in one worker.

    Attributes
    ----------
    on : dict
        The canary as in `releases.log.State`; replaced with `follow`.
    canary, control : IntentClassifier
        Both freshly loaded, so that neither is warmer than the other.
    """

    def __init__(self, on: Entry, production: str) -> None:
        self.on = on
        self.canary = IntentClassifier(on["version"]).load_model()
        self.control = IntentClassifier(production).load_model()
        self._holding = contextlib.ExitStack()
        self._decides = False
        self.follow(on)

    def follow(self, on: Entry) -> None:
        """Go on at another step; the share of it begins with no pairs."""
        self.on, self._decided = on, False
        self._pairs = Pairs()
        self._mix = MixProcess(0.5)  # of it, only which labels lead is used

    def close(self) -> None:
        """Let another worker decide."""
        self._holding.close()

    def chosen(self, queries: list[str], user: str | None) -> tuple[Side, bool]:
        """Return who answers, "" for production, and whether that is counted.

        A user stays where they are: a larger share adds users to both sides and takes none away.
        Those whom the feature flag puts on the canary were not drawn, so they are not counted.
        """
        share = SHARES[self.on["step"]]
        place = share_of(
            f"canary {self.on['version']}", "\n".join(queries) if user is None else user
        )
        if user is not None and should_use_feature(FLAG, user):
            return "canary", False
        side: Side = "canary" if place < share else "control" if place >= 100 - share else ""
        return side, side != ""

    def note(self, side: Side, seen: Seen) -> None:
        """Count an answer of one side with the one of the other that came before, if any."""
        if side == "" or (self._pairs.side == side and len(self._pairs.waiting) >= _MOST):
            return
        self._pairs, pair = self._pairs.joined(side, seen)
        if pair is None:
            return
        canary, control = pair
        self._count_worse(canary, control)
        if canary.intent is not None and control.intent is not None:
            before = self._mix.counts
            self._mix = self._mix.updated((canary.intent, control.intent))
            moved = [n - b for n, b in zip(self._mix.counts, before, strict=True)]
            self._count("mix", moved.index(1) - 1)

    def compare(self, canary: Seen, production: Seen) -> None:
        """Count two answers to one query."""
        if self.on["step"] == "shadow":
            self._count_worse(canary, production)
            self._count("disagreement", int(canary.intent != production.intent))

    def _count_worse(self, canary: Seen, other: Seen) -> None:
        self._count("errors", canary.error - other.error)
        self._count("slow", canary.slow - other.slow)

    def _count(self, test: str, outcome: int) -> None:
        metrics.canary_pairs.labels(*self._labels, test, metrics.PAIRED[outcome + 1]).inc()

    @property
    def _labels(self) -> tuple[str, str]:
        return str(self.on["version"]), str(self.on["step"])

    def look(self) -> None:
        """Append to the log what follows from all workers' counts, if this worker decides.

        Raises
        ------
        NiveshError, OSError
            Counts or log cannot be written; it is tried again at the next look.
        """
        on = self.on
        if self._decided or not self._may_decide():
            return
        sums = rules.counted(on, metrics.server(), metrics.canary_totals(*self._labels))
        if rules.judged(on, sums).decision != "continue":
            tell_end(rules.advance(on, rules.evidence(on, sums)))
            self._decided = self.on["id"] == on["id"]

    def _may_decide(self) -> bool:
        """Return whether this worker is the one that decides; the lock ends with the process."""
        if not self._decides:
            folder = Package.of(self.on["name"], self.on["version"]).folder
            with contextlib.suppress(BlockingIOError):
                self._holding.enter_context(locked(folder, wait=False))
                self._decides = True
        return self._decides


def tell_end(entry: Entry | None) -> None:
    """Count a rollback that this process has just written to the log."""
    if entry and entry.get("step") == "rolled back":
        metrics.rolled_back.inc()


def can_decide(name: str) -> bool:
    """Return whether a verdict could be written on this machine."""
    return all(os.access(place, os.W_OK) for place in (release_log(), releases_dir() / name))
