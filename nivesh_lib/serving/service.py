"""What answers behind the routes: the served model, its queue, its cache, and its replacement."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from cachetools import TTLCache

from nivesh_lib import paths
from nivesh_lib.errors import NiveshError, ReleaseError
from nivesh_lib.hash_chain import Entry
from nivesh_lib.releases.canary import end
from nivesh_lib.releases.log import read_log, state_of
from nivesh_lib.serving import feedback, flags, metrics
from nivesh_lib.serving.admission import Admission
from nivesh_lib.serving.classifier import IntentClassifier
from nivesh_lib.serving.released import follows_log
from nivesh_lib.serving.rollout import Rollout, Seen, Side, can_decide, tell_end
from nivesh_lib.serving.settings import CACHED, CACHED_SECONDS, NAME, Settings
from nivesh_lib.serving.watching import DriftWatch, least_accuracy

_LOOK = 0.5  # seconds between two looks at the release log
_JUDGE = 0.2  # seconds between two looks at the evidence of a canary
Answer = dict[str, Any]


class Service:
    """Answers queries with the model that the settings mean, and with the one that follows it.

    Attributes
    ----------
    classifier : IntentClassifier or None
        What answers now; None before the first request or `start`.
    trouble : str
        Why another release than the one that answers should, empty where there is none.
    rollout : Rollout or None
        The canary that is on.
    """

    def __init__(self, settings: Settings, log: Callable[..., None]) -> None:
        self.settings, self.log = settings, log
        self.admission = Admission(settings.max_wait)
        self.classifier: IntentClassifier | None = None
        self.trouble = ""
        self.unkept = ""  # why the last correction was not kept
        self._cache: TTLCache[tuple[str, bytes], Answer] = TTLCache(CACHED, CACHED_SECONDS)
        self._drift: DriftWatch | None = None
        self.rollout: Rollout | None = None
        self._unjudged = ""  # why the canary that is on has no verdict from here
        self._tasks: set[asyncio.Task[None]] = set()
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
        if follows_log(self.settings.model):
            self._seen = self._seen if await self._try_to_follow() else ()
        self._do(self._keep_watch())
        self._do(self._keep_judging())

    async def stop(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        self._end_rollout()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def reasons(self) -> list[str]:
        """Return why the service is degraded; none where it is healthy."""
        unkept = self.unkept or feedback.obstacle(self.settings.feedback)
        found = [one for one in (self.trouble, unkept, self._unjudged, flags.trouble()) if one]
        if self.classifier is not None:
            found += self.classifier.source.passed_over
        if self.admission.full:
            found.append("overloaded: requests are refused")
        return found

    async def answer(self, queries: list[str], user: str | None = None) -> list[Answer]:
        """Return one answer for each query, all by the same model, in order.

        Parameters
        ----------
        user
            Where a canary is on, a user is answered by the same side at every request.

        Raises
        ------
        NiveshError
            See `ready`.
        """
        classifier = self.ready()
        if rollout := self.rollout:
            answers = await self._rolled_out(rollout, queries, user)
        else:
            answers = await self._answered(classifier, queries)
        _count(answers)
        same = classifier is self.classifier and answers[0]["release"] == classifier.source.release
        if self._drift and same:  # a canary's answers are other ones
            self._drift.see(queries, answers)
        return answers

    async def _answered(
        self, classifier: IntentClassifier, queries: list[str], side: Side = ""
    ) -> list[Answer]:
        self.admission.last = 0.0  # as long as the model has no turn for it
        if len(queries) > 1:
            return await self._batch(classifier, queries)
        if self.settings.cache:
            return [await self._cached(classifier, queries[0], side)]
        return await self.admission.call(classifier.predict_batch, queries)

    async def _rolled_out(
        self, rollout: Rollout, queries: list[str], user: str | None
    ) -> list[Answer]:
        """Answer while a canary is on; of each request, the first query is compared.

        Where the canary, or the control, fails, production answers in its place.
        """
        side, counts = rollout.chosen(queries, user)
        answers = await self._by_side(rollout, side, queries) if side else None
        if counts:
            rollout.note(side, Seen.of(answers, self.admission.last))
        if answers is None:
            answers = await self._answered(self.ready(), queries)
            if not side and rollout.on["step"] == "shadow":
                seen = Seen.of(answers, self.admission.last)
                self._do(self._shadow(rollout, queries[0], seen))
        return answers

    async def _by_side(
        self, rollout: Rollout, side: Side, queries: list[str]
    ) -> list[Answer] | None:
        classifier = rollout.canary if side == "canary" else rollout.control
        try:
            return await self._answered(classifier, queries, side)
        except Exception as error:  # whatever a model may raise; it counts against it
            self.log("not_answered", side=side, error=type(error).__name__)
            return None

    async def _shadow(self, rollout: Rollout, query: str, production: Seen) -> None:
        """Ask the canary too, after the answer was sent; not while others wait for theirs."""
        if self.admission.idle:
            answers = await self._by_side(rollout, "canary", [query])
            seen = Seen.of(answers, self.admission.last)
            rollout.compare(seen, production)

    async def _cached(self, classifier: IntentClassifier, query: str, side: Side) -> Answer:
        """Answer from the cache, which holds hashes of queries, never queries.

        The sides of a canary have answers of their own: neither finds those of production there.
        """
        which = f"{side} {classifier.source.release} {classifier.digest}"
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
        metrics.serving.labels(*metrics.model_labels(classifier.source.release)).set(1)
        for label in classifier.label_to_id:
            metrics.intents.labels(label)
        metrics.released_accuracy.set(least_accuracy(classifier.source))
        watched, self._drift = self._drift, DriftWatch.of(classifier, self.settings.drift_every)
        if watched or self._drift:
            metrics.tell_drift(False, 1.0)  # of this release nothing was tested yet
        self.log("serving", source=str(classifier.source), digest=classifier.digest[:12])

    async def _keep_watch(self) -> None:
        while True:
            try:
                await self._measure()
            except Exception as error:  # whatever it is, the log of releases has to be followed
                self.log("not_measured", why=f"{type(error).__name__}: {error}")
            await asyncio.sleep(_LOOK)
            state = _state_of_log()
            # A canary that could not begin is tried again: its files may be writable by now.
            known = state == self._seen and not self._unjudged
            if known or not follows_log(self.settings.model):
                continue
            if await self._try_to_follow():
                self._seen = state

    async def _measure(self) -> None:
        metrics.waiting.set(self.admission.queries)
        metrics.degraded.set(bool(self.reasons()))
        if resident := _resident():
            metrics.memory.set(resident / 2**20)
        if self._drift and self._drift.due:
            found = await self._drift.test()
            metrics.tell_drift(found.found, found.p)

    async def _keep_judging(self) -> None:
        while True:
            await asyncio.sleep(_JUDGE)
            if not self.rollout:
                continue
            try:
                await asyncio.to_thread(self.rollout.look)
                self._unjudged = ""
            except Exception as error:  # tried again, though not at once: a promotion takes a while
                self._unjudged = f"the canary's verdict cannot be written: {error}"
                await asyncio.sleep(10 * _JUDGE)

    async def _try_to_follow(self) -> bool:
        try:
            await self._follow()
            return True
        except Exception as error:  # whatever it is; tried again at the next look
            if str(error) not in self.trouble:
                self.log("not_followed", why=str(error))
            self.trouble = f"another release should be served: {error}"
            return False

    async def _follow(self) -> None:
        """Load what the log now means, beside the requests, and answer with it."""
        state = await asyncio.to_thread(lambda: state_of(read_log(NAME)))
        on, rollout = state.canary, self.rollout
        if rollout and on.get("start") == rollout.on["start"]:
            if on["id"] != rollout.on["id"]:
                rollout.follow(on)
        elif rollout and state.production != rollout.on["version"]:
            self._end_rollout()  # before anything is loaded
        await self._follow_production()
        if rollout and on.get("start") != rollout.on["start"]:
            self._end_rollout()  # promoted, and loaded by now
        if not on:
            self._unjudged = ""
        elif not self.rollout and self.release == state.production:
            await self._begin(on)

    async def _begin(self, on: Entry) -> None:
        if not can_decide(NAME):
            self._unjudged = (
                f"the canary {on['version']} gets no users here: the release log or reports/"
                "releases cannot be written, so it could not be rolled back"
            )
            return
        try:
            self.rollout = await asyncio.to_thread(Rollout, on, self.release)
        except NiveshError as error:
            tell_end(await asyncio.to_thread(end, on, f"it cannot be loaded: {error}"))
            return
        metrics.announce(on["version"])
        self.log("canary", release=on["version"], step=on["step"])

    def _end_rollout(self) -> None:
        if self.rollout:
            self.rollout.close()
            self.log("canary_ended", release=self.rollout.on["version"])
        self.rollout = None

    async def _follow_production(self) -> None:
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
    """Return this process' resident memory in bytes; 0 where the system does not tell it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
