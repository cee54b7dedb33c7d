"""Findings about the quality of one model, from labels and out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.confidence.calibration import is_right, reliability_bins
from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.intervals import mean_of
from nivesh_lib.evaluation.objectives import Judgement, Objective, judge_all
from nivesh_lib.evaluation.resampling.cross_validation import confidence_of
from nivesh_lib.evaluation.scores import (
    METRICS,
    Column,
    confusion,
    per_class,
    rare_labels,
    top_confusions,
)
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.estimate import Estimate, from_columns
from nivesh_lib.records.finding import Example, Finding, Plot
from nivesh_lib.wording import (
    counted,
    human_bytes,
    interval,
    joined,
    milliseconds,
    of_100,
    percent,
    quoted,
    sentence,
    shown,
    the,
)

_FEW = 20  # rows; a label with fewer says little


def scores(
    model: str, found: Mapping[str, Estimate], objectives: Sequence[Objective] = ()
) -> list[Finding]:
    """Return one finding for each score, judged by the objective of its name where there is one.

    The first one has the table and the figure of all.

    Parameters
    ----------
    model
        Its name, as in `models.directory.MODELS`.
    found
        As `scores.score` returns them.
    """
    judged = {one.objective.metric: one for one in judge_all(found, objectives)}
    findings = [
        Finding(
            name=name,
            claim=sentence(f"{the(model)} {_reaches(name, one)}{_against(judged.get(name))}"),
            estimate=one,
            **_mark(judged.get(name)),
            source="nivesh_lib.evaluation.scores.score",
        )
        for name, one in found.items()
    ]
    cells = [
        {"score": METRICS[one.name].title, **found[one.name].as_dict()}
        | {"mark": f"{one.mark}: {one.verdict}" if one.mark else ""}
        for one in findings
    ]
    plot = plots.intervals(
        {METRICS[name].title: one for name, one in found.items()},
        "score",
        targets={METRICS[name].title: one.objective.target for name, one in judged.items()},
    )
    return [findings[0].changed(cells=cells, plot=plot), *findings[1:]]


def _reaches(name: str, found: Estimate) -> str:
    if name == "accuracy":
        return f"routes {of_100(found)} rightly"
    return f"reaches a {METRICS[name].title} of {interval(found)}"


def _against(judged: Judgement | None) -> str:
    """Return what the verdict adds to a claim about a score."""
    if judged is None:
        return ""
    target = f"{judged.objective.target:g}"
    if judged.objective.metric == "accuracy":
        target = f"{100 * judged.objective.target:g} of 100"
    return {
        "met": f"; the mark of {target} is met",
        "not met": f"; the mark is {target}",
        "undecided": f"; whether the mark of {target} is met, these rows cannot tell",
    }[judged.status]


def _mark(judged: Judgement | None) -> dict[str, Any]:
    return {} if judged is None else {"mark": str(judged.objective), "verdict": judged.status}


def cost(
    model: str,
    latency: Mapping[str, float],
    objectives: Sequence[Objective],
    size_bytes: int | None,
    fit_seconds: float | None,
) -> Finding:
    """Say what an answer costs, and judge the latency.

    Parameters
    ----------
    latency
        As `benchmark.measure_latency` returns it, in milliseconds.
    fit_seconds
        Of one fold, on average.
    """
    value, low, high = (latency[f"p95_ms{end}"] for end in ("", "_low", "_high"))
    p95 = Estimate(value, low, high, int(latency["n"]))
    judged = next(iter(judge_all(latency, [o for o in objectives if o.metric == "p95_ms"])), None)
    size = "" if size_bytes is None else f", and it takes {human_bytes(size_bytes)} on disk"
    busy = [f"Found {judged.found}."] if judged and judged.status == "undecided" else []
    return Finding(
        name="p95_ms",
        claim=sentence(
            f"{the(model)} answers 95 of 100 queries within {milliseconds(p95.value)} "
            f"({milliseconds(p95.low).removesuffix(' ms')} to "
            f"{milliseconds(p95.high).removesuffix(' ms')}){size}"
        ),
        estimate=p95,
        **_mark(judged),
        cells=[
            {"what": "half of the queries within, ms", "found": latency["p50_ms"]},
            {"what": "95 of 100 within, ms", "found": p95.value},
            {"what": "size on disk, MB", "found": None if size_bytes is None else size_bytes / 1e6},
            {"what": "training of one fold, s", "found": fit_seconds},
            {"what": "threads (0: not limited)", "found": latency["threads"]},
        ],
        caveats=[*busy, "Timed on the machine that made this page, one query after the other."],
        source="nivesh_lib.evaluation.benchmark.measure_latency",
    )


def confusions(frame: pd.DataFrame, predicted: np.ndarray, labels: Sequence[str]) -> Finding:
    """Name the pair of labels that is confused most, with queries of it.

    Parameters
    ----------
    frame
        Columns query and intent, n rows.
    predicted
        Shape (n,).
    """
    true = frame["intent"].to_numpy(dtype=object)
    worst = top_confusions(true, predicted, labels)
    counts = confusion(true, predicted, labels)
    if worst.empty:
        claim, examples = f"None of {len(frame):,} queries is confused.", []
    else:
        first = worst.iloc[0]
        claim = sentence(
            f"{quoted(first['true'])} is taken for {quoted(first['predicted'])} most often: "
            f"{first['rows']} of its {counted((true == first['true']).sum(), 'query', 'queries')}"
        )
        pair = (true == first["true"]) & (predicted == first["predicted"])
        right = (true == first["true"]) & (predicted == first["true"])
        examples = examples_of(
            frame, predicted, np.flatnonzero(pair)[:2], np.flatnonzero(right)[:1]
        )
    return Finding(
        name="confusions",
        claim=claim,
        cells=worst.assign(**{c: worst[c].map(shown) for c in ("true", "predicted")}),
        plot=Plot(
            kind="confusions",
            data={"labels": list(labels), "counts": counts.to_numpy().tolist()},
            alt="True against predicted labels; the table lists the most frequent errors.",
        ),
        examples=examples,
        source="nivesh_lib.evaluation.scores.top_confusions",
    )


def examples_of(frame: pd.DataFrame, predicted: np.ndarray, *groups: np.ndarray) -> list[Example]:
    """Return anonymised rows by number, with the true label and what it was taken for."""
    found = []
    for row in np.concatenate(groups):
        label, answer = quoted(frame["intent"].iloc[row]), quoted(predicted[row])
        note = f"{label}, rightly" if label == answer else f"{label}, taken for {answer}"
        found.append(Example(query=anonymize_query(frame["query"].iloc[row]), note=note))
    return found


def by_label(true: Column, predicted: Column, labels: Sequence[str]) -> Finding:
    """Name the labels that are served best and worst."""
    table = per_class(true, predicted, labels)
    present = table[table["support"] > 0].sort_values("f1", kind="stable")
    low, high = present.iloc[0], present.iloc[-1]
    return Finding(
        name="by_label",
        claim=sentence(
            f"F1 goes from {low['f1']:.2f} for {quoted(present.index[0])} "
            f"({counted(int(low['support']), 'query', 'queries')}) to "
            f"{high['f1']:.2f} for {quoted(present.index[-1])}"
        ),
        cells=table.sort_values("support", ascending=False, kind="stable")
        .rename(index=shown)
        .reset_index(),
        caveats=few_rows(true, below=_FEW),
        source="nivesh_lib.evaluation.scores.per_class",
    )


def few_rows(true: Column, *, below: int) -> list[str]:
    """Return the caveat of labels whose scores single rows move; none without such labels."""
    few = list(rare_labels(true, below=below))
    names = joined(map(shown, few[:3])) + (" and more" if few[3:] else "")
    return [f"Fewer than {below} rows, so that single ones move the score: {names}."] if few else []


def by_slice(slices: pd.DataFrame) -> Finding:
    """Name the slice that is served worst.

    Parameters
    ----------
    slices
        As `summary.slice_scores` returns them.
    """
    name, source = "by_slice", "nivesh_lib.evaluation.scores.by_slice"
    parts = slices if slices.empty else slices[~slices["slice"].str.startswith("selection=")]
    if parts.empty:
        return Finding(name=name, claim="The data has no columns to slice by.", source=source)
    worst = min(parts.to_dict("records"), key=lambda row: row["accuracy"])
    right = from_columns(worst, "accuracy", n=worst["rows"])
    caveats = ["The intervals are not corrected for the number of slices."]
    if "selection=hard" in set(slices["slice"]):
        caveats.append("Rows picked because a model failed on them are a slice of their own only.")
    return Finding(
        name=name,
        claim=f"The group “{shown(worst['slice'])}” is served worst: {of_100(right)} are right.",
        estimate=right,
        cells=slices.assign(slice=slices["slice"].map(shown)),
        caveats=caveats,
        source=source,
    )


def confidence(proba: pd.DataFrame, true: Column, *, threshold: float | None = None) -> Finding:
    """Say how far the stated confidence is from the share that is right.

    Parameters
    ----------
    proba
        One column for each label, n rows that count for scores.
    threshold
        The confidence below which a person answers, where one is set.
    """
    right, stated = is_right(proba, true), confidence_of(proba)
    gap = mean_of(stated - right)
    direction = "it is too low" if gap.high < 0 else "it is too high" if gap.low > 0 else ""
    claim = f"stated confidence is {percent(stated.mean())} on average, and {percent(right.mean())}"
    claim += " of the answers are right"
    none = f"no difference shows (at most {100 * max(-gap.low, gap.high):.1f} points)"
    claim += f": {direction or none}"
    cells = []
    if threshold is not None:
        answered = stated >= threshold
        cells = [
            {"at confidence": threshold, "answered": answered.mean(),
             "right of those": right[answered].mean() if answered.any() else None}
        ]  # fmt: skip
        claim += f"; from {threshold:g} on, as the objectives ask, it would "
        some = f"answer {100 * answered.mean():.0f} of 100 queries and hand over the others"
        claim += some if answered.any() else "hand over all queries"
    bins = reliability_bins(stated, right, n_bins=10)
    return Finding(
        name="confidence",
        claim=sentence(claim),
        estimate=gap,
        cells=cells,
        plot=Plot(
            kind="reliability",
            data={"bins": {"answers": bins.to_dict("list")}},
            alt=f"Mean confidence {stated.mean():.2f}, share right {right.mean():.2f}.",
        ),
        source="nivesh_lib.evaluation.confidence.calibration.reliability_bins",
    )


def learned(terms: Mapping[str, Sequence[str]]) -> Finding:
    """Show the heaviest words of each label.

    Parameters
    ----------
    terms
        Label -> its words, the heaviest first.
    """
    if not terms:
        return Finding(name="learned", claim="The model has no weights of words to show.")
    label, words = next(iter(terms.items()))
    heaviest = ", ".join(f"“{word}”" for word in words[:3])
    return Finding(
        name="learned",
        claim=sentence(f"the heaviest words of {quoted(label)} are {heaviest}"),
        cells=[{"label": shown(name), "words": ", ".join(found)} for name, found in terms.items()],
        source="nivesh_lib.models.text.tfidf.TfidfClassifier.top_terms",
    )
