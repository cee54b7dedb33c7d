"""Findings about the quality of one model, from labels and out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.confidence.calibration import is_right, reliability_bins
from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.intervals import mean_of, share_of
from nivesh_lib.evaluation.objectives import Judgement, Objective, judge_all
from nivesh_lib.evaluation.resampling.cross_validation import confidence_of
from nivesh_lib.evaluation.scores import (
    METRICS,
    Column,
    changed_confusions,
    confusion,
    paired_difference,
    per_class,
    rare_labels,
    top_confusions,
)
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Example, Finding, Plot, Verdict
from nivesh_lib.wording import (
    human_bytes,
    interval,
    joined,
    of_100,
    percent,
    points,
    sentence,
    shown,
    the,
)

_HERE = "nivesh_lib.evaluation.findings.quality"
_FEW = 20  # rows; a label with fewer says little


def scores(
    model: str, found: Mapping[str, Estimate], objectives: Sequence[Objective] = ()
) -> list[Finding]:
    """Return one finding for each score, judged by the objective of its name where there is one.

    Parameters
    ----------
    model
        Its name, as in `models.base.MODELS`.
    found
        As `scores.score` returns them.
    """
    judged = {one.objective.metric: one for one in judge_all(found, objectives)}
    findings = []
    for name, estimate in found.items():
        value = of_100(estimate) if name == "accuracy" else interval(estimate)
        what = f"{the(model)} routes {value} rightly" if name == "accuracy" else (
            f"{the(model)} reaches a {METRICS[name].title} of {value}"
        )  # fmt: skip
        findings.append(
            Finding(
                name=name,
                claim=sentence(what + _against(judged.get(name))),
                estimate=estimate,
                **_mark(judged.get(name)),
                cells=[{"score": METRICS[name].title, **estimate.as_dict()}],
                plot=_score_plot(found, judged) if name == "accuracy" else None,
                source="nivesh_lib.evaluation.scores.score",
            )
        )
    return findings


def _against(judged: Judgement | None) -> str:
    """Return what the verdict adds to a claim about a score."""
    if judged is None:
        return ""
    target = f"{100 * judged.objective.target:g} of 100" if judged.objective.metric == (
        "accuracy"
    ) else f"{judged.objective.target:g}"  # fmt: skip
    return {
        "met": f"; the mark of {target} is met",
        "not met": f"; the mark is {target}",
        "undecided": f"; whether the mark of {target} is met, these rows cannot tell",
    }[judged.status]


def _mark(judged: Judgement | None) -> dict[str, Any]:
    return {} if judged is None else {"mark": str(judged.objective), "verdict": judged.status}


def _score_plot(found: Mapping[str, Estimate], judged: Mapping[str, Judgement]) -> Plot:
    targets = {name: one.objective.target for name, one in judged.items() if name in found}
    return plots.intervals(
        {METRICS[name].title: one for name, one in found.items()},
        "score",
        targets={METRICS[name].title: target for name, target in targets.items()},
    )


def gain(
    model: str,
    other: str,
    true: Column,
    predicted: Column,
    predicted_other: Column,
    *,
    name: str = "",
    n_boot: int = 2000,
    seed: int = 42,
) -> Finding:
    """Judge whether one model is ahead of another by more than chance, on the same queries.

    The paired difference in macro-F1, by which models are ranked, decides; the claim gives the
    queries too.
    """
    columns = true, predicted, predicted_other
    difference = paired_difference(*columns, metric="macro_f1", n_boot=n_boot, seed=seed)
    in_queries = paired_difference(*columns, metric="accuracy", n_boot=n_boot, seed=seed)
    verdict: Verdict = (
        "met" if difference.low > 0 else "not met" if difference.high < 0 else "undecided"
    )
    ahead = {
        "met": f"{the(model)} is ahead of {the(other)} by more than chance",
        "not met": f"{the(model)} is behind {the(other)} by more than chance",
        "undecided": f"whether {the(model)} is ahead of {the(other)}, these rows cannot tell",
    }[verdict]
    return Finding(
        name=name or f"gain_over_{other}",
        claim=sentence(f"{ahead}: {points(difference)} points of macro-F1"),
        estimate=difference,
        mark=f"ahead of {the(other)} by more than chance",
        verdict=verdict,
        cells=[
            {"score": title, **one.as_dict()}
            for title, one in (("macro-F1", difference), ("accuracy", in_queries))
        ],
        plot=plots.differences(
            {"macro-F1": difference, "accuracy": in_queries}, f"points more than {the(other)}"
        ),
        source="nivesh_lib.evaluation.scores.paired_difference",
    )


def ahead_of_all(
    model: str,
    true: Column,
    predicted: Column,
    others: Mapping[str, Column],
    *,
    n_boot: int = 2000,
    seed: int = 42,
) -> Finding:
    """Judge whether a model is ahead of each of several others by more than chance.

    Parameters
    ----------
    others
        Name -> its answers to the same n queries. All of them have to be behind, so nothing is to
        be corrected for their number.
    """
    differences = {
        name: paired_difference(true, predicted, other, metric="macro_f1", n_boot=n_boot, seed=seed)
        for name, other in others.items()
    }
    name, closest = min(differences.items(), key=lambda one: one[1].low)
    lead, ahead = points(closest), sum(one.low > 0 for one in differences.values())
    verdict: Verdict = "undecided"
    claim = f"whether {the(model)} is ahead of {the(name)}, these rows cannot tell: {lead} points"
    claim += f" of macro-F1; it is ahead of {ahead} of {len(others)} models by more than chance"
    if ahead == len(others):
        verdict = "met"
        name, closest = min(differences.items(), key=lambda one: one[1].value)
        lead = points(closest)
        claim = f"{the(model)} is ahead of each of {len(others)} models by more than chance; the "
        claim += f"closest is {the(name)}, with a lead of {lead} points of macro-F1"
    elif any(one.high < 0 for one in differences.values()):
        verdict = "not met"
        name, closest = min(differences.items(), key=lambda one: one[1].high)
        claim = f"{the(model)} is behind {the(name)} by more than chance: {points(closest)} points"
        claim += " of macro-F1"
    return Finding(
        name="ahead_of_all",
        claim=sentence(claim),
        estimate=closest,
        mark=f"ahead of {joined(map(the, others))}, of each by more than chance",
        verdict=verdict,
        plot=plots.differences(
            {f"over {the(one)}": d for one, d in differences.items()},
            f"points of macro-F1 more for {the(model)}",
        ),
        source="nivesh_lib.evaluation.scores.paired_difference",
    )


def changes(
    model: str,
    other: str,
    frame: pd.DataFrame,
    before: np.ndarray,
    labels: Sequence[str],
) -> Finding:
    """Count the queries that one model answers rightly and another does not, both ways.

    Parameters
    ----------
    frame
        Columns query, intent and predicted, n rows, those first that make the better examples.
    before
        Answers of the other model, shape (n,).
    """
    true, now = (frame[name].to_numpy(dtype=object) for name in ("intent", "predicted"))
    won, lost = (before != true) & (now == true), (before == true) & (now != true)
    return Finding(
        name="changes",
        claim=sentence(
            f"of {len(frame):,} queries {the(model)} answers {won.sum()} rightly that {the(other)} "
            f"answers wrongly, and {lost.sum()} the other way round"
        ),
        estimate=share_of(lost),
        cells=changed_confusions(true, before, now, labels).assign(
            true=lambda t: t["true"].map(shown), predicted=lambda t: t["predicted"].map(shown)
        ),
        examples=examples_of(frame, now, np.flatnonzero(won)[:2], np.flatnonzero(lost)[:1]),
        source="nivesh_lib.evaluation.scores.changed_confusions",
    )


def not_compared(step: str, dataset: str) -> Finding:
    """Say that an earlier step left no answers for a dataset, so that nothing is judged."""
    return Finding(
        name=f"gain_over_{step}",
        claim=f"No results of {step} for {dataset}, so nothing is compared; "
        f"`nivesh run --only {step}` makes them.",
    )


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
            f"{the(model)} answers 95 of 100 queries within {p95.value:.1f} ms "
            f"({p95.low:.1f} to {p95.high:.1f}){size}"
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
            f"{shown(first['true'])} is taken for {shown(first['predicted'])} most often: "
            f"{first['rows']} of its {(true == first['true']).sum()} queries"
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
        label, answer = shown(frame["intent"].iloc[row]), shown(predicted[row])
        note = f"{label}, rightly" if label == answer else f"{label}, taken for {answer}"
        found.append(Example(query=anonymize_query(frame["query"].iloc[row]), note=note))
    return found


def by_label(true: Column, predicted: Column, labels: Sequence[str]) -> Finding:
    """Name the labels that are served best and worst."""
    table = per_class(true, predicted, labels)
    present = table[table["support"] > 0].sort_values("f1", kind="stable")
    low, high = present.iloc[0], present.iloc[-1]
    few = rare_labels(true, below=_FEW)
    caveats = []
    if few:
        names = joined(shown(name) for name in list(few)[:3])
        caveats.append(f"Fewer than {_FEW} rows: {names}{' and more' if len(few) > 3 else ''}.")
    return Finding(
        name="by_label",
        claim=sentence(
            f"F1 goes from {low['f1']:.2f} for {shown(present.index[0])} "
            f"({low['support']:.0f} queries) to {high['f1']:.2f} for {shown(present.index[-1])}"
        ),
        cells=table.sort_values("support", ascending=False, kind="stable")
        .rename(index=shown)
        .reset_index(),
        caveats=caveats,
        source="nivesh_lib.evaluation.scores.per_class",
    )


def by_slice(slices: pd.DataFrame) -> Finding:
    """Name the slice that is served worst, rows selected for being hard apart.

    Parameters
    ----------
    slices
        As `scores.by_slice` returns them.
    """
    name, source = "by_slice", "nivesh_lib.evaluation.scores.by_slice"
    natural = slices[slices["slice"] != "selection=hard"] if len(slices) else slices
    if not len(natural):
        return Finding(name=name, claim="The data has no columns to slice by.", source=source)
    worst = natural.sort_values("accuracy", kind="stable").iloc[0]
    value, low, high = (float(worst[f"accuracy{end}"]) for end in ("", "_low", "_high"))
    right = Estimate(value, low, high, int(worst["rows"]))
    caveats, of = [], "of all slices"
    if len(natural) < len(slices):
        of = "apart from the rows picked for being hard"
        caveats.append("Rows picked because a model failed on them are in the other slices too.")
    return Finding(
        name=name,
        claim=sentence(f"{of}, {shown(worst['slice'])} is served worst: {of_100(right)} are right"),
        estimate=right,
        cells=slices.assign(slice=slices["slice"].map(shown)),
        caveats=[*caveats, "The intervals are not corrected for the number of slices."],
        source=source,
    )


def confidence(
    proba: pd.DataFrame, true: Column, *, threshold: float | None = None, n_bins: int = 10
) -> Finding:
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
    direction = "too low" if gap.high < 0 else "too high" if gap.low > 0 else ""
    claim = f"stated confidence is {percent(stated.mean())} on average, and {percent(right.mean())}"
    claim += " of the answers are right"
    claim += f": it is {direction}" if direction else ": no difference shows"
    cells = []
    if threshold is not None:
        answered = stated >= threshold
        cells = [
            {"at confidence": threshold, "answered": answered.mean(),
             "right of those": right[answered].mean() if answered.any() else None}
        ]  # fmt: skip
        claim += f"; from {threshold:g} on, as the objectives ask, it would answer "
        claim += f"{100 * answered.mean():.0f} of 100 queries and hand over the others"
    bins = reliability_bins(stated, right, n_bins=n_bins)
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
        claim=sentence(f"the heaviest words of {shown(label)} are {heaviest}"),
        cells=[{"label": shown(name), "words": ", ".join(found)} for name, found in terms.items()],
        source="nivesh_lib.models.text.tfidf.TfidfClassifier.top_terms",
    )
