"""What answers behind the routes: the served model, its queue, its cache, and its replacement."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cachetools import TTLCache

from nivesh_lib import paths
from nivesh_lib.errors import NiveshError, ReleaseError
from nivesh_lib.serving import metrics
from nivesh_lib.serving.admission import Admission
from nivesh_lib.serving.classifier import IntentClassifier
from nivesh_lib.serving.released import follows_log
from nivesh_lib.serving.settings import CACHED, CACHED_SECONDS, Settings
from nivesh_lib.serving.watching import DriftWatch

_LOOK = 0.5  # seconds between two looks at the release log
Answer = dict[str, Any]


class Service:
    """Answers queries with the model that the settings mean, and with the one that follows it.

    Attributes
    ----------
    classifier : IntentClassifier or None
        What answers now; None before the first request or `start`.
    trouble : str
        Why another release than the one that answers should, empty where there is none.
    """

    def __init__(self, settings: Settings, log: Callable[..., None]) -> None:
        self.settings, self.log = settings, log
        self.admission = Admission(settings.max_wait)
        self.classifier: IntentClassifier | None = None
        self.trouble = ""
        self.unkept = ""  # why the last correction was not kept
        self._cache: TTLCache[tuple[str, bytes], Answer] = TTLCache(CACHED, CACHED_SECONDS)
        self._watch: asyncio.Task[None] | None = None
        self._drift: DriftWatch | None = None
        self._seen = _state_of_log()

    def ready(self) -> IntentClassifier:
        """Return the loaded classifier, after loading it where nobody has called `start`.

        Raises
        ------
        NiveshError
            There is no model, or it was altered.
        """
        if self.classifier is None:
            self._seen = _state_of_log()
            self._serve(IntentClassifier(self.settings.model).load_model())
        assert self.classifier is not None
        return self.classifier

    @property
    def release(self) -> str:
        """The release that answers now; empty where it is none, or none is loaded."""
        return self.classifier.source.release if self.classifier else ""

    async def start(self) -> None:
        """Load the model; from then on, measure, and follow the release log."""
        self.ready()
        self._watch = asyncio.create_task(self._keep_watch())

    async def stop(self) -> None:
        """Stop watching."""
        if self._watch:
            self._watch.cancel()

    def reasons(self) -> list[str]:
        """Return why the service is degraded; none where it is healthy."""
        found = [one for one in (self.trouble, self.unkept) if one]
        if self.classifier is not None:
            found += self.classifier.source.passed_over
        if self.admission.full:
            found.append("overloaded: requests are refused")
        return found

    async def answer(self, queries: list[str]) -> list[Answer]:
        """Return one answer for each query, all by the same model, in order.

        Raises
        ------
        NiveshError
            See `ready`.
        """
        classifier = self.ready()
        if len(queries) > 1:
            answers = await self._batch(classifier, queries)
        elif self.settings.cache:
            answers = [await self._cached(classifier, queries[0])]
        else:
            answers = await self.admission.call(classifier.predict_batch, queries)
        _count(answers)
        if self._drift and classifier is self.classifier:
            self._drift.see(queries, answers)
        return answers

    async def _cached(self, classifier: IntentClassifier, query: str) -> Answer:
        """Answer from the cache, which holds hashes of queries, never queries."""
        which = f"{classifier.source.release} {classifier.digest}"
        key = which, hashlib.sha256(query.encode()).digest()
        kept = self._cache.get(key)
        if kept is None:
            (kept,) = await self.admission.call(classifier.predict_batch, [query])
            self._cache[key] = kept
        return kept

    async def _batch(self, classifier: IntentClassifier, queries: list[str]) -> list[Answer]:
        """Answer queries of like length together, and let single ones come in between."""
        answers: list[Answer] = [{}] * len(queries)
        order = sorted(range(len(queries)), key=lambda row: len(queries[row]))
        while order:
            rows, order = order[: self.admission.chunk], order[self.admission.chunk :]
            asked = [queries[row] for row in rows]
            found = await self.admission.call(classifier.predict_batch, asked)
            for row, answer in zip(rows, found, strict=True):
                answers[row] = answer
        return answers

    def _serve(self, classifier: IntentClassifier) -> None:
        """Answer with a loaded classifier from the next request on."""
        before, self.classifier, self.trouble = self.classifier, classifier, ""
        metrics.active_models.set(1)
        if before:
            metrics.serving.labels(*metrics.model_labels(before.source.release)).set(0)
        metrics.announce(classifier.source.release)
        for label in classifier.label_to_id:
            metrics.intents.labels(label)
        watched, self._drift = self._drift, DriftWatch.of(classifier)
        if watched or self._drift:
            metrics.tell_drift(False, 1.0)  # of this release nothing was tested yet
        self.log("serving", source=str(classifier.source), digest=classifier.digest[:12])

    async def _keep_watch(self) -> None:
        while True:
            metrics.waiting.set(self.admission.queries)
            metrics.memory.set(_resident() / 2**20)
            metrics.degraded.set(bool(self.reasons()))
            if self._drift and self._drift.due:
                found = await self._drift.test()
                metrics.tell_drift(found.found, found.p)
            await asyncio.sleep(_LOOK)
            state = _state_of_log()
            if state == self._seen or not follows_log(self.settings.model):
                continue
            try:
                await self._follow()
                self._seen = state
            except (NiveshError, OSError) as error:  # tried again at the next look
                if str(error) not in self.trouble:
                    self.log("not_followed", why=str(error))
                self.trouble = f"another release should be served: {error}"

    async def _follow(self) -> None:
        """Load what the log now means, beside the requests, and answer with it."""
        named = await asyncio.to_thread(IntentClassifier, self.settings.model)
        served = self.ready()
        if named.source.passed_over and served.source.release:
            raise ReleaseError("; ".join(named.source.passed_over))  # what answers stays
        if (named.digest, named.source) == (served.digest, served.source):
            self.trouble = ""
            return
        self._serve(await asyncio.to_thread(named.load_model))


def _count(answers: list[Answer]) -> None:
    for intent, n in Counter(answer["intent"] for answer in answers).items():
        metrics.intents.labels(intent).inc(n)
    for answer in answers:
        metrics.confidence.observe(answer["confidence"])
    metrics.abstentions.inc(sum(answer["abstained"] for answer in answers))


def _state_of_log() -> tuple[int, ...]:
    try:
        found = paths.release_log().stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _resident() -> int:
    """Return this process' resident memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
