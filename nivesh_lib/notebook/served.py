"""The model that would be served after a run, behind HTTP; each method adds a finding to the run.

The server is a process of its own with a log and a file of corrections in the run's directory;
what is measured is measured once.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np

from nivesh_lib import paths
from nivesh_lib.data.versions import Dataset
from nivesh_lib.errors import DataError, ModelError, NiveshError
from nivesh_lib.evaluation.benchmark import reference_loop
from nivesh_lib.evaluation.findings import serving as findings
from nivesh_lib.evaluation.objectives import serving_marks
from nivesh_lib.notebook.compared import RecordedModel
from nivesh_lib.notebook.server import LocalServer
from nivesh_lib.notebook.session import Run
from nivesh_lib.records.finding import Finding
from nivesh_lib.releases.log import registered_name
from nivesh_lib.reporting.findings import show_markdown
from nivesh_lib.serving.classifier import IntentClassifier
from nivesh_lib.serving.metrics import samples
from nivesh_lib.serving.released import Source, default_source, small_model
from nivesh_lib.serving.settings import MAX_BATCH, MAX_BODY, MAX_CHARACTERS, NAME
from nivesh_lib.wording import sentence, the

_ASK, _BATCH = "/predict/intent", "/predict/intent/batch"
_NUMBER = "+91 98765 43210"
_LOOPS = 20  # of the reference loop, before the load and after it


@dataclass(eq=False, repr=False)
class Served:
    """The model that ``nivesh serve`` would serve after this run, and a server of it.

    ``address`` is what ``--model`` takes for it, ``name`` how sentences call it.
    """

    run: Run
    data: Dataset
    address: str
    name: str
    server: LocalServer
    asked: int
    seconds: float

    @classmethod
    def start(cls, run: Run, data: Dataset, model: str = "", *, asked: int, seconds: float) -> Self:
        """Start a server, and show what it serves.

        Parameters
        ----------
        model
            As ``nivesh serve --model`` takes it; empty is what that serves by default when this
            run is the last one.
        asked
            Queries that are asked one after the other.
        seconds
            How long requests arrive at the rate of the objectives.

        Raises
        ------
        NiveshError
            There is no such model, or no small one of this dataset, or the server does not start.
        """
        address, name, why = (model, f"the model {model}", "") if model else _default(run, data)
        server = LocalServer(address, run.directory.folder("logs", run.step))
        show_markdown(sentence(f"Served is {name}{why}"))
        return cls(run, data, address, name, server, asked, seconds)

    def ask(self, query: str) -> dict[str, Any]:
        """Return the server's answer to a query."""
        return self.server.ask(query)

    def stop(self) -> None:
        """End the server; what was measured stays."""
        self.server.stop()

    # --- measurements ----------------------------------------------------------------------------

    @cached_property
    def _intents(self) -> dict[str, str]:
        """Training queries and their labels, in another order; queries as the model gets them."""
        rows = self.data.train.sample(frac=1, random_state=self.run.seed)
        texts = (" ".join(text.split()) for text in rows["query"])
        found = {
            text: label
            for text, label in zip(texts, rows["intent"], strict=True)
            if len(text) <= MAX_CHARACTERS
        }
        if not found:
            raise DataError(
                f"{self.data.ref}: no query has at most {MAX_CHARACTERS} characters, so none can "
                "be asked over HTTP. `nivesh predict` answers longer ones"
            )
        return found

    @cached_property
    def _answers(self) -> dict[str, tuple[dict[str, Any], dict[str, Any], float]]:
        """Answers by query: over HTTP, and in process with its milliseconds."""
        model, found = IntentClassifier(self.address).load_model(), {}
        for query in list(self._intents)[: self.asked]:
            over_http, started = self.ask(query), perf_counter()
            in_process = model.predict(query)
            found[query] = over_http, in_process, 1e3 * (perf_counter() - started)
        return found

    @cached_property
    def _under_load(self) -> tuple[Finding, Finding]:
        """Send requests at a steady rate; return what callers waited, and what metrics say."""
        rate = serving_marks(self.data.ref).get("requests_per_second", findings.RATE)
        beside, before = _reference_ms(), self._metrics()
        logged, started = self.server.log.stat().st_size, perf_counter()
        calls = self.server.load([*self._intents], rate=rate, seconds=self.seconds)
        took, after = perf_counter() - started, self._metrics()
        beside += _reference_ms()
        lines = map(json.loads, self.server.log.read_bytes()[logged:].splitlines())
        waits = {
            "by the caller": [one.ms for one in calls],
            "in the server": [line["ms"] for line in lines if line.get("path") == _ASK],
            "by the model alone": [ms for *_, ms in self._answers.values()],
        }
        slowdown = float(np.percentile(beside, 75) / min(beside))
        statuses = Counter(one.reply.status for one in calls)
        intents = Counter(one.reply.said["intent"] for one in calls if one.reply.status == 200)
        return (
            findings.request_latency(self.name, waits, self.data.ref, slowdown=slowdown),
            findings.signals(before, after, statuses, intents, seconds=took),
        )

    def _metrics(self) -> dict[Any, float]:
        reply = self.server.send("GET", "/metrics")
        if reply.status != 200:
            raise NiveshError(f"the server stopped; {self.server.log.parent} tells what it said")
        return samples(reply.said)

    def _refused(self) -> Finding:
        """Send bad requests, and a good one."""
        post, send = self.server.post, self.server.send
        query, huge = b'{"query": "hello"}', b" " * (MAX_BODY + 1)
        sent = {
            "an empty query": post(_ASK, query="  "),
            f"{MAX_CHARACTERS + 1} characters": post(_ASK, query="a" * (MAX_CHARACTERS + 1)),
            "a number as query": post(_ASK, query=7),
            "no query": post(_ASK),
            "an unknown field": post(_ASK, query="hello", colour="red"),
            "text that is no JSON": send("POST", _ASK, b"{query: hello}"),
            "bytes that are no text": send("POST", _ASK, b'{"query": "\xff"}'),
            "JSON that is called text": send("POST", _ASK, query, Content_Type="text/plain"),
            f"{len(huge):,} bytes": send("POST", _ASK, huge),
            "a batch of none": post(_BATCH, queries=[]),
            f"a batch of {MAX_BATCH + 1:,}": post(_BATCH, queries=["hello"] * (MAX_BATCH + 1)),
            "no key": send("POST", _ASK, query, X_API_Key=None),
            "a wrong key": send("POST", _ASK, query, X_API_Key="guess"),
            "an unknown intent": post("/feedback", query="hello", intent="none such"),
            "GET instead of POST": send("GET", _ASK),
            "an unknown address": send("GET", "/admin"),
        }
        replies = {name: (reply.status, reply.detail) for name, reply in sent.items()}
        return findings.refused(replies, answers_on=send("POST", _ASK, query).status == 200)

    def _kept(self) -> Finding:
        """Send a correction with a telephone number, and look into what the server has written."""
        answers = {query: answer for query, (answer, *_) in self._answers.items()}
        wrong = (one for one in answers if answers[one]["intent"] != self._intents[one])
        query = next(wrong, next(iter(answers)))
        reply = self.server.post(
            "/feedback",
            query=f"{query[: MAX_CHARACTERS - 40]}, my number is {_NUMBER}",
            intent=self._intents[query],
            predicted=answers[query]["intent"],
            release=answers[query]["release"],
        )
        log, lines = self.server.log.read_text("utf-8"), [*_lines(self.server.feedback)]
        long = (one for one in answers if " " in one and len(one) > 15)  # no field's name
        sent = (_NUMBER, *(json.dumps(one, ensure_ascii=False)[1:-1] for one in long))
        places = {"the log": any(one in log for one in sent), "the file": _NUMBER in str(lines)}
        line = lines[-1] if lines and reply.status == 201 else {}
        told = "" if line else reply.detail
        return findings.kept(line, told, [place for place, found in places.items() if found])

    @cached_property
    def _parts(self) -> dict[str, Finding]:
        """The findings of all marks."""
        over_http, in_process, _ = zip(*self._answers.values(), strict=True)
        same = findings.same_answers(self.name, [*self._answers], over_http, in_process)
        made = (same, *self._under_load, self._refused(), self._kept())
        return {one.name: one for one in made}

    # --- findings --------------------------------------------------------------------------------

    def answer(self) -> Finding:
        """Whether the server answers rightly, fast enough and safely."""
        return self.run.add(findings.served(self.name, self._parts))

    def same_answers(self) -> Finding:
        """Whether answers over HTTP are those of the model in process."""
        return self.run.add(self._parts["same_answers"])

    def latency(self) -> Finding:
        """How long callers wait."""
        return self.run.add(self._parts["request_latency"])

    def refused(self) -> Finding:
        """What becomes of bad requests."""
        return self.run.add(self._parts["refused"])

    def signals(self) -> Finding:
        """What the server's metrics said of the load."""
        return self.run.add(self._parts["signals"])

    def kept(self) -> Finding:
        """What the server keeps of what its callers send."""
        return self.run.add(self._parts["kept"])

    def recorded(self) -> dict[str, Any]:
        """Return the headline and the metric of the step, for `Run.finish`."""
        p95 = self._parts["request_latency"].estimate
        return {"headline": self.answer().title, "metrics": {"request_p95_ms": p95}}


def _default(run: Run, data: Dataset) -> tuple[str, str, str]:
    """Return what ``--model`` takes for what is served by default, its name, and why it is that."""
    models: dict[Path, RecordedModel] = {}
    with contextlib.suppress(NiveshError):  # there is none; a release may be there, or what ships
        models = {one.directory: one for one in run.recorded_models().values()}

    def small() -> Path | None:
        steps = {one.step: one for one in models.values()}
        results = {step: one.result for step, one in steps.items()}
        return small_model(results, lambda step: steps[step].directory)

    if registered_name(data.ref) == NAME:
        source = default_source(small)
    elif folder := small():
        source = Source(folder)
    else:
        raise ModelError(
            f"no model of {data.ref} that a server can load was saved yet. "
            f"`nivesh run --dataset {data.ref}` trains them"
        )
    passed_over = "".join(f"; {one}" for one in source.passed_over).replace(f"{paths.home()}/", "")
    if source.release:
        return source.stage, f"the {source}", passed_over
    none = passed_over or "; no release is in production or in staging"
    if source.folder not in models:
        return str(source.folder), "the small model that ships", f", for want of another{none}"
    name, why = the(models[source.folder].result.model), ", of this run's models the best that "
    return str(source.folder), name, f"{why}a server can load without PyTorch{none}"


def _reference_ms() -> list[float]:
    """Return the milliseconds of some calls of the reference loop."""
    found = []
    with reference_loop() as loop:
        loop()
        for _ in range(_LOOPS):
            started = perf_counter()
            loop()
            found.append(1e3 * (perf_counter() - started))
    return found


def _lines(file: Path) -> list[dict[str, Any]]:
    return [*map(json.loads, file.read_text("utf-8").splitlines())] if file.is_file() else []
