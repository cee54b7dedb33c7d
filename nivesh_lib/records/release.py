"""What a release is: ``release.json`` beside its model, its card and its answers by row."""

from __future__ import annotations

from typing import Any, Literal

from nivesh_lib.records.base import Record

RESPONSE = ("intent", "confidence", "alternatives")  # fields of an answer to a query
N_ALTERNATIVES = 2  # of an answer
GateVerdict = Literal["met", "not met", "undecided", "not reachable", "not shown"]


class Gate(Record):
    """A mark that a release has to reach for a stage.

    ``found`` says what was measured, ``why`` what follows where that is not enough: for a mark
    that is *not reachable*, with how many rows it would be.
    """

    name: str
    mark: str
    verdict: GateVerdict
    found: str
    why: str = ""

    @property
    def passed(self) -> bool:
        """Whether the mark was shown to be reached."""
        return self.verdict == "met"


class InPlace(Record):
    """The release that the candidate was compared with, on the same rows of the same opening."""

    version: str
    digest: str
    won: int
    lost: int


class Release(Record):
    """A release. ``name`` is that of the registered model, ``digest`` that of its directory.

    ``base`` is the digest of the run's model where its confidence was corrected by ``temperature``
    (None where it is released as it is). ``metrics`` are estimates (value, low, high, n) on the
    ``rows`` held-out rows, ``openings`` the ids of the ledger that they rest on. ``bump`` has a
    sentence for each part of the version that changed, ``changes`` what differs from
    ``predecessor``, the release before. ``parameters`` are those of the run's step,
    ``train_seconds`` the processor time of its training and evaluation.
    """

    name: str
    version: str
    digest: str
    base: str
    kind: str
    algorithm: str
    temperature: float | None
    min_confidence: float | None
    labels: list[str]
    response: list[str]
    dataset: str
    data_sha256: str
    commit: str
    lock_sha256: str
    run: str
    step: str
    parameters: dict[str, Any]
    train_seconds: float | None
    size_bytes: int
    rows: int
    metrics: dict[str, Any]
    slices: list[dict[str, Any]]
    openings: list[str]
    in_place: InPlace | None
    predecessor: str
    bump: list[str]
    changes: list[str]
    gates: dict[str, list[Gate]]
    who: str
    why: str
    created: str
    environment: dict[str, Any]


class AnsweredRow(Record):
    """One held-out row in ``rows.json``: its id, its label and the answer; no query.

    ``before`` is the answer of the release in place, empty where there was none. ``slices`` are
    the names of the slices that it is in. ``alternatives`` (intent -> confidence), ``words``, how
    many the query has, and ``language`` are what answers to later queries are compared with.
    """

    id: str
    label: str
    predicted: str
    confidence: float
    before: str = ""
    slices: list[str] = []
    alternatives: dict[str, float] = {}
    words: int = 0
    language: str = ""
