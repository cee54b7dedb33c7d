"""Callers of a local server who never stop asking, and what it said of itself meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from time import time
from typing import Any

import pandas as pd

from nivesh_lib.evaluation.findings.rollout import Sent
from nivesh_lib.notebook.server import LocalServer
from nivesh_lib.serving.metrics import Sample, samples

_CALLERS = 2
_CORRECTED = 0.1  # of wrong answers; a row may be asked for hundreds of times
_POLL = 0.25  # seconds between two looks at the metrics
NUMBER = "+91 98765 43210"
_EVERY = 5  # of so many corrections, one has a number in it and another is a mistake


class Traffic:
    """Queries drawn at random from rows, by users drawn at random, as fast as they are answered.

    Attributes
    ----------
    sent : list of Sent
    polled : list
        Seconds of the epoch, and what the metrics said then.
    truths : dict
        Id of each correction that was kept -> the label that its row has.
    corrects : bool
        Whether some users correct wrong answers, each row once. Some of them add a telephone
        number, and some are wrong themselves.
    """

    def __init__(self, server: LocalServer, labels: Sequence[str], *, seed: int) -> None:
        self.server, self.labels, self.seed = server, list(labels), seed
        self.sent: list[Sent] = []
        self.polled: list[tuple[float, dict[Sample, float]]] = []
        self.truths: dict[str, str] = {}
        self.corrects = True
        self._corrected: set[str] = set()
        self._over, self._lock = threading.Event(), threading.Lock()

    def mix(self, rows: pd.DataFrame, often: Sequence[str] = (), share: float = 0.8) -> None:
        """Draw from rows from now on; a ``share`` of the queries are of the labels ``often``."""
        more = rows["intent"].isin(often)
        weights = pd.Series(1.0, rows.index)
        if more.any() and not more.all():
            weights[more], weights[~more] = share / more.sum(), (1 - share) / (~more).sum()
        self._rows = (*zip(rows["query"], rows["intent"], strict=True),), [*accumulate(weights)]

    @property
    def corrected(self) -> int:
        """How many corrections were sent."""
        return len(self._corrected)

    def start(self) -> None:
        """Begin to ask, and to look at the metrics."""
        work = [partial(self._ask, number) for number in range(_CALLERS)] + [partial(self._poll)]
        self._threads = [threading.Thread(target=one, daemon=True) for one in work]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End when every request is answered, and look at the metrics a last time."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._look()

    def _ask(self, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")
        while not self._over.is_set():
            rows, weights = self._rows
            ((query, label),) = chance.choices(rows, cum_weights=weights)
            at, user = time(), f"user {chance.getrandbits(32)}"
            reply = self.server.post("/predict/intent", query=query, user_id=user)
            said = reply.said if reply.status == 200 else {"release": "", "intent": ""}
            self.sent.append(Sent(at, reply.status, said["release"], said["intent"], label))
            wrong = reply.status == 200 and said["intent"] != label
            if wrong and self.corrects and chance.random() < _CORRECTED:
                self._correct(query, label, said)

    def _correct(self, query: str, label: str, said: dict[str, Any]) -> None:
        with self._lock:
            number = len(self._corrected)
            if query in self._corrected:
                return
            self._corrected.add(query)
        others = [one for one in self.labels if one not in (label, said["intent"])]
        mistaken = number % _EVERY == 1 and others
        reply = self.server.post(
            "/feedback",
            query=f"{query}, my number is {NUMBER}" if number % _EVERY == 0 else query,
            intent=others[number % len(others)] if mistaken else label,
            predicted=said["intent"],
            release=said["release"],
        )
        if reply.status == 201:
            self.truths[reply.said["id"]] = label

    def _poll(self) -> None:
        while not self._over.wait(_POLL):
            self._look()

    def _look(self) -> None:
        reply = self.server.send("GET", "/metrics")
        if reply.status == 200:
            self.polled.append((time(), samples(reply.said)))
