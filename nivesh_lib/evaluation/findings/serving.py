"""Findings about a server: its answers, times, refusals, signals, and what it keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from nivesh_lib.evaluation.benchmark import interval_of_p95
from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.objectives import BUSY, Objective, judge, none_set, serving_marks
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Example, Finding, Plot
from nivesh_lib.wording import counted, joined, milliseconds, percent, sentence, shown

RATE = 100.0  # requests a second where no objective says how many
_MARKS = {
    "same_answers": "over HTTP every answer is the model's own",
    "request_latency": "95 of 100 requests are answered within {:g} ms, at {:g} a second",
    "refused": "every bad request is refused with a sentence, and none makes the server fail",
    "kept": "of a caller's texts only corrections are kept, without telephone numbers",
    "signals": "the server counted what was sent to it, no more and no less",
}
_ASPECTS = {
    "same_answers": "as right as in process",
    "request_latency": "fast enough",
    "refused": "safe from bad requests",
    "kept": "discreet",
    "signals": "observable",
}
_QUANTILES = np.linspace(0, 100, 101)  # that are drawn

# What metrics say: (name, its labels with their values) -> value.
Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


def marks(dataset: str) -> dict[str, str]:
    """Return what a server of a dataset's models has to reach, by the finding that judges it."""
    target = serving_marks(dataset)
    times = target.get("latency_ms", 0), target.get("requests_per_second", RATE)
    found = {name: words.format(*times) for name, words in _MARKS.items()}
    if not times[0]:
        del found["request_latency"]
    return found


def served(model: str, parts: Mapping[str, Finding]) -> Finding:
    """Say whether a model is served as it should be; ``parts`` are the findings of the marks."""
    judged = {name: parts[name].verdict for name in _ASPECTS if parts[name].mark}
    shown_ = [_ASPECTS[name] for name, verdict in judged.items() if verdict == "met"]
    others = [_ASPECTS[name] for name, verdict in judged.items() if verdict != "met"]
    waited = parts["request_latency"].estimate
    claim = f"over HTTP, {model} is shown to be {joined(shown_) or 'nothing that was asked'}"
    claim += f"; not shown to be {joined(others)}" if others else ""
    claim += (
        f"; 95 of 100 requests are answered within {milliseconds(waited.value if waited else None)}"
    )
    return Finding(
        name="served",
        claim=sentence(claim),
        cells=[
            {"is it": aspect, "found": parts[name].claim, "verdict": parts[name].verdict}
            for name, aspect in _ASPECTS.items()
        ],
    )


def same_answers(
    model: str,
    queries: Sequence[str],
    over_http: Sequence[Mapping[str, Any]],
    in_process: Sequence[Mapping[str, Any]],
) -> Finding:
    """Judge whether a server answers as the model does in process, one answer for each query."""
    asked = [*zip(map(anonymize_query, queries), over_http, in_process, strict=True)]
    apart = [row for row in asked if row[1] != row[2]]
    claim = f"{len(asked) - len(apart):,} of {counted(len(asked), 'answer')} over HTTP are those "
    claim += f"of {model} in process, confidence and alternatives included"
    return Finding(
        name="same_answers",
        claim=sentence(claim),
        mark=_MARKS["same_answers"],
        verdict="not met" if apart else "met",
        cells=[
            {"query": query, "over HTTP": _said(one), "in process": _said(other)}
            for query, one, other in apart[:10]
        ],
        examples=[Example(query=query, note=_said(one)) for query, one, _ in asked[:3]],
        caveats=["Whether these answers are right is no question to a server: they are of rows "
                 "that the model has learned from."],
        source="nivesh_lib.serving.classifier.IntentClassifier.predict",
    )  # fmt: skip


def _said(answer: Mapping[str, Any]) -> str:
    handed = ", so a person answers" if answer["abstained"] else ""
    return f"{shown(answer['intent'])}, confidence {answer['confidence']:.2f}{handed}"


def request_latency(
    model: str, waits: Mapping[str, Sequence[float]], dataset: str, *, slowdown: float = 1.0
) -> Finding:
    """Judge how long callers wait while requests arrive at a steady rate.

    Parameters
    ----------
    waits
        What was timed -> milliseconds of each call: first those of callers, in the order in which
        requests were due; last those of the model alone.
    dataset
        Whose objectives hold.
    slowdown
        How much longer a reference loop took than at its fastest.
    """
    target, ends = serving_marks(dataset), [50, 95]
    rows = {name: np.percentile(of, ends) for name, of in waits.items()}
    (half, p95), *_, alone = ([milliseconds(ms) for ms in row] for row in rows.values())
    times = np.array(next(iter(waits.values())))
    low, high = interval_of_p95(times)
    value = float(np.percentile(times, 95))
    found = Estimate(value, min(low, value), max(high, value), len(times))
    claim = f"at {target.get('requests_per_second', RATE):g} requests a second half are answered "
    claim += f"within {half} and 95 of 100 within {p95} ({found.low:.1f} to {found.high:.1f}); "
    claim += f"{model} alone takes {alone[0]} and {alone[1]}"
    mark, limit = marks(dataset).get("request_latency", ""), target.get("latency_ms", 0.0)
    objective = Objective("", "p95_ms", limit, at_most=True)
    judged = judge(objective, value, found.low, found.high, slowdown=slowdown)
    caveats = {
        f"The machine was busy: a reference loop took {slowdown:.1f} times its fastest, so answers "
        "may be faster than this.": slowdown > BUSY,
        none_set(dataset): not mark,
        "Asked from the same machine: a network adds its own time.": True,
    }
    return Finding(
        name="request_latency",
        claim=sentence(claim),
        estimate=found,
        mark=mark,
        verdict=judged.status if mark else "",
        cells=[
            {"timed": name, "half within, ms": row[0], "95 of 100 within, ms": row[1],
             "longest, ms": max(waits[name]), "calls": len(waits[name])}
            for name, row in rows.items()
        ],
        plot=_curves(waits, limit),
        caveats=[words for words, holds in caveats.items() if holds],
        source="nivesh_lib.notebook.server.LocalServer.load",
    )  # fmt: skip


def _curves(waits: Mapping[str, Sequence[float]], mark: float) -> Plot:
    drawn = {name: np.percentile(of, _QUANTILES).tolist() for name, of in waits.items()}
    said = (f"{name} half {of[50]:.2f}, 95 of 100 {of[95]:.2f}" for name, of in drawn.items())
    alt = f"Milliseconds within which calls are answered: {'; '.join(said)}."
    return Plot(kind="waits", data={"waited": drawn, "mark": mark}, alt=alt)


def refused(replies: Mapping[str, tuple[int, str]], *, answers_on: bool) -> Finding:
    """Judge whether bad requests are refused: with 4xx and a sentence, never with 5xx.

    Parameters
    ----------
    replies
        What was sent -> the status and what the caller was told; status 0 is no reply.
    answers_on
        Whether the next good request was answered.
    """
    right = [name for name, (status, told) in replies.items() if 400 <= status < 500 and told]
    claim = f"{len(right)} of {counted(len(replies), 'bad request')} are refused with a sentence "
    claim += f"on what is wrong; the next good one is {'' if answers_on else 'not '}answered"
    met = answers_on and len(right) == len(replies)
    return Finding(
        name="refused",
        claim=sentence(claim),
        mark=_MARKS["refused"],
        verdict="met" if met else "not met",
        cells=[
            {"sent": name, "status": status, "the caller is told": told}
            for name, (status, told) in replies.items()
        ],
    )


def kept(line: Mapping[str, Any], told: str, found_in: Sequence[str]) -> Finding:
    """Judge what a server keeps of queries, and of a correction with a telephone number in it.

    Parameters
    ----------
    line
        The correction as its file has it; empty where there is none.
    told
        What the caller was told in that case.
    found_in
        Where a query was found as it was sent, or the number.
    """
    claim = f"the correction was not kept: {told}"
    if line:
        claim = "the correction is kept with its telephone number masked, no query is in the log"
    if found_in:
        claim = f"what a caller sent is found in {joined(found_in)}"
    fields = ("query", "intent", "predicted", "release")
    return Finding(
        name="kept",
        claim=sentence(claim),
        mark=_MARKS["kept"],
        verdict="met" if line and not found_in else "not met",
        cells=[{"field": name, "kept": str(line[name])} for name in fields if line.get(name)],
        caveats=["Names and places are not found."],
        source="nivesh_lib.privacy.anonymize_query",
    )


def grown(
    before: Samples, after: Samples, name: str, label: str = "", **where: str
) -> dict[str, float]:
    """Return by how much a metric grew, by the values of a label; what did not is left out.

    Parameters
    ----------
    where
        Other labels with the value that they must have.
    """
    found: dict[str, float] = defaultdict(float)
    for (one, labels), value in after.items():
        if one == name and where.items() <= dict(labels).items():
            found[dict(labels).get(label, "")] += value - before.get((one, labels), 0.0)
    return {value: change for value, change in found.items() if change}


def signals(
    before: Samples, after: Samples, statuses: Mapping[int, int], intents: Mapping[str, int],
    *, seconds: float,
) -> Finding:  # fmt: skip
    """Read the four golden signals from metrics, and judge whether they are what was sent.

    Parameters
    ----------
    before, after
        What the metrics said before and after a load of single queries.
    statuses, intents
        How often the callers received each.
    seconds
        From the first request to the last answer.
    """
    of, now = partial(grown, before, after), {name: value for (name, _), value in after.items()}
    responses = of("http_responses_total", "status", path="/predict/intent")
    labels = of("intent_predictions_by_label_total", "intent")
    sent, answered = sum(statuses.values()), sum(labels.values())
    agrees = responses == {str(one): n for one, n in statuses.items()} and labels == dict(intents)
    failed = sum(n for status, n in responses.items() if status >= "5")
    claim = f"the server counted {sum(responses.values()):,.0f} requests and {answered:,.0f} "
    claim += f"predictions, {'' if agrees else 'not '}what its callers sent and got"
    busy = sum(of("model_prediction_latency_seconds_sum").values()) / seconds
    handed = sum(of("predictions_abstained_total").values()) / max(answered, 1)
    said = {
        "latency": _within(of("model_prediction_latency_seconds_bucket", "le")),
        "traffic": f"{sent / seconds:,.0f} requests a second",
        "errors": f"{failed:,.0f} of {sent:,} requests",
        "saturation": f"at work {percent(busy)} of the time, with {now['model_memory_mb']:,.0f} "
        f"MB; afterwards {now['model_queries_waiting']:g} queries wait",
        "confidence": f"{percent(handed)} of the answers are for a person to look at",
    }
    return Finding(
        name="signals",
        claim=sentence(claim),
        mark=_MARKS["signals"],
        verdict="met" if agrees else "not met",
        cells=[{"signal": name, "during the load": words} for name, words in said.items()],
        plot=plots.bars({name: int(n) for name, n in labels.items()}, "predictions"),
        caveats=[
            "The model has learned from these queries, so it is surer of them than of others."
        ],
        source="nivesh_lib.serving.metrics.samples",
    )


def _within(buckets: Mapping[str, float]) -> str:
    """Return the end of the bucket that holds the 95th percentile of a histogram."""
    most = max(buckets.values(), default=0.0)
    ends = (float(end) for end, below in buckets.items() if below >= 0.95 * most)
    return f"95 of 100 within {1e3 * min(ends, default=0.0):g} ms, by its buckets"
