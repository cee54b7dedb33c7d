"""Findings about a dataset: the checks, judged, and what its rows are like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from scipy.stats import PermutationMethod, chi2_contingency

from nivesh_lib.evaluation.findings import plots
from nivesh_lib.evaluation.intervals import MIN_ROWS
from nivesh_lib.evaluation.scores import headline_mask
from nivesh_lib.privacy import anonymize_query
from nivesh_lib.records.finding import Example, Finding, Plot, Verdict
from nivesh_lib.wording import counted, joined, percent, quoted, sentence, shown


class _Check(NamedTuple):
    """A mark and how it is judged: its name in a sentence, and the checks of `nivesh_lib.data`."""

    mark: str
    title: str
    checks: tuple[str, ...]
    doubt: str = ""  # what the rows cannot tell where a check only warns
    caveat: str = ""


_CHECKS = {  # by the finding that judges the mark
    "cells": _Check("every row has a text and a label", "missing cells", ("cells", "rows")),
    "duplicates": _Check(
        "no text occurs twice, and none has two labels",
        "repeated texts",
        ("duplicates", "conflicts"),
    ),
    "near_duplicates": _Check(
        "at most one row in a hundred nearly repeats another",
        "near-duplicates",
        ("near_duplicates",),
    ),
    "balance": _Check(
        "no label is more than ten times as frequent as another",
        "balance of the labels",
        ("balance",),
    ),
    "both_sides": _Check(
        "no text, and none that nearly repeats it, is on both sides of the split or in two folds",
        "equal or nearly equal texts on both sides",
        ("fold_pairs", "split", "ids", "augmented"),
        "whether that flatters the scores",
    ),
    "giveaways": _Check(
        "no text gives its label away, by naming it or by a word that no other label has",
        "labels given away",
        ("stated_label", "giveaway"),
        "whether that is a leak or the way people ask",
        "Words that occur in a few rows only are not tested.",
    ),
    "personal_data": _Check(
        "no text holds personal data that the search knows",
        "personal data",
        ("personal_data",),
        caveat="The search knows numbers and addresses by their form, and no names of people.",
    ),
}
MARKS = {name: check.mark for name, check in _CHECKS.items()}
_OPTIONAL = {  # column -> what later notebooks do with it
    "income_segment": "compares people",
    "created_at": "shows seasons and drift",
    "language": "compares languages",
    "selection": "keeps rows picked for being hard out of the scores",
    "source": "finds copies among the rows",
    "traits": "compares kinds of queries",
}
_SURE = 0.01  # p-value below which a difference is called more than chance
_SHUFFLES = 999
_VALIDATE = "nivesh_lib.data.validation.validate_intent_data"


# --- the checks, judged --------------------------------------------------------------------------


def check_findings(
    checked: Mapping[str, Any], frame: pd.DataFrame, labels: Sequence[str]
) -> dict[str, Finding]:
    """Judge each of `MARKS` by the checks that belong to it.

    One that a check refuses is not met; one that is only warned about is undecided, except for
    near-duplicates, which are counted.

    Parameters
    ----------
    checked
        As `data.validation.validate_intent_data` returns it, searched for leaks.
    frame
        The rows that were checked, n rows with the columns id, query and intent.
    labels
        In the order of their ids.
    """
    names = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    of_labels = re.compile(rf"(?<!\w)({names})(?!\w)")
    found = {}
    for name, check in _CHECKS.items():
        issues = [issue for issue in checked["checks"] if issue["check"] in check.checks]
        messages = [of_labels.sub(lambda m: shown(m[0]), issue["message"]) for issue in issues]
        refused = any(issue["severity"] == "error" for issue in issues) or name == "near_duplicates"
        verdict: Verdict = "met" if not issues else "not met" if refused else "undecided"
        found[name] = Finding(
            name=name,
            claim=sentence(_claim(name, verdict, messages, checked["stats"])),
            mark=check.mark,
            verdict=verdict,
            cells=[{"found": message} for message in messages],
            examples=_rows_of(issues, frame),
            caveats=[check.caveat] if check.caveat else [],
            source=_VALIDATE,
        )
    counts = checked["stats"]["label_distribution"]
    return found | {"balance": _with_labels(found["balance"], counts, frame, labels)}


def _claim(name: str, verdict: Verdict, messages: list[str], stats: Mapping[str, Any]) -> str:
    check, of_label, rows = _CHECKS[name], stats["label_distribution"], f"{stats['rows']:,} rows"
    if name == "near_duplicates":
        near = stats["near_duplicates"]
        repeat = "nearly repeats" if near["rows"] == 1 else "nearly repeat"
        some = f"{near['rows']:,} of {rows} ({percent(near['share'])}) {repeat} another"
        return some if near["rows"] else f"none of {rows} nearly repeats another"
    if name == "balance" and len(of_label) > 1:
        most, least = max(of_label, key=of_label.get), min(of_label, key=of_label.get)
        if of_label[most] == of_label[least]:
            return f"each of {len(of_label)} labels has {counted(of_label[most], 'training row')}"
        return (
            f"the most frequent label, {quoted(most)}, has {stats['imbalance_ratio']:.1f} times "
            f"the rows of the rarest, {quoted(least)} ({of_label[most]:,} and {of_label[least]:,})"
        )
    if verdict == "met":
        return f"{check.title}: none among {rows}"
    more = f", and {len(messages) - 1} more that the table lists" if messages[1:] else ""
    doubt = f"; {check.doubt}, these rows cannot tell" if verdict == "undecided" else ""
    return messages[0] + more + doubt


def _rows_of(issues: Sequence[Mapping[str, Any]], frame: pd.DataFrame) -> list[Example]:
    """Return up to three anonymised rows of the first issue that names any."""
    ids: list[Any] = next((issue["rows"] for issue in issues if issue["rows"]), [])
    rows = frame.loc[frame["id"].isin(ids), ["query", "intent"]].head(3)
    return [
        Example(query=anonymize_query(str(query)), note=shown(label))
        for query, label in rows.itertuples(index=False)
    ]


def _with_labels(
    balance: Finding, of_label: Mapping[str, int], frame: pd.DataFrame, labels: Sequence[str]
) -> Finding:
    """Return the finding on balance with the rows and one query of each label, and a figure."""
    counts = {label: of_label.get(label, 0) for label in labels}
    without = joined(shown(label) for label, rows in counts.items() if not rows)
    typical = _typical(frame)
    return balance.changed(
        cells=[
            {"id": number, "label": shown(label), "training rows": rows,
             "for example": anonymize_query(typical.get(label, ""))}
            for number, (label, rows) in enumerate(counts.items())
        ],
        plot=plots.bars(counts, "training rows"),
        caveats=[f"No training row has the label {without}."] if without else [],
    )  # fmt: skip


def _typical(frame: pd.DataFrame) -> dict[str, str]:
    """Return a query of each label: not a hard one, in the commonest language, where it can be."""
    rows = frame[["query", "intent"]].astype(str).assign(hard=~headline_mask(frame))
    if "language" in frame:
        rows["rare"] = -frame["language"].map(frame["language"].value_counts())
    words = rows["query"].map(str.split).map(len)
    rows["odd"] = (words - words.median()).abs()
    first = rows.sort_values([*rows.columns[2:]]).drop_duplicates("intent")
    return dict(zip(first["intent"], first["query"], strict=True))


def fit_to_train(ref: str, checked: Mapping[str, Any], checks: Mapping[str, Finding]) -> Finding:
    """Judge a version by all of its checks together.

    Parameters
    ----------
    ref
        Such as ``intents@1.2.0``.
    checked
        As `data.validation.validate_intent_data` returns it.
    checks
        As `check_findings` returns them.
    """
    passed = sum(one.verdict == "met" for one in checks.values())
    open_ones = [_CHECKS[name].title for name, one in checks.items() if one.verdict != "met"]
    verdict: Verdict = "not met" if not checked["valid"] else "undecided" if open_ones else "met"
    says = {
        "met": "is fit to train on",
        "undecided": "can be used with care",
        "not met": "should go back",
    }[verdict]
    what = f"all {passed} checks pass"
    if open_ones:
        what = f"{passed} of {len(checks)} checks pass; look at {joined(open_ones)}"
    return Finding(
        name="fit_to_train",
        claim=sentence(f"{shown(ref).replace('@', ' ')} {says}: {what}"),
        mark="every check passes",
        verdict=verdict,
        cells=[
            {"check": _CHECKS[name].title, "found": found, "verdict": one.verdict}
            for name, one in checks.items()
            for found in [row["found"] for row in one.cells if "found" in row] or [one.claim]
        ],
        examples=[one.examples[0] for one in checks.values() if one.examples],
        caveats=[caveat for one in checks.values() for caveat in one.caveats]
        + ["No check of the rows can tell whether people will ask like this."],
        source=_VALIDATE,
    )


# --- what the rows are like ----------------------------------------------------------------------


def completeness(frame: pd.DataFrame) -> Finding:
    """Say which optional columns are there, and how complete they are; n rows."""
    filled = {name: frame[name].notna().mean() for name in _OPTIONAL if name in frame}
    parts = [
        f"{shown(name)} is filled in for {percent(share)} of the rows"
        for name, share in filled.items()
        if share < 1
    ]
    whole = f"{len(filled) - len(parts)} of {len(_OPTIONAL)} optional columns are complete"
    if not filled:
        whole = "the data has texts and labels only, so scores cannot be sliced by anything else"
    return Finding(
        name="completeness",
        claim=sentence("; ".join([whole, *parts])),
        cells=[
            {"column": shown(name), "what it is for": use, "share filled": filled.get(name, 0.0)}
            for name, use in _OPTIONAL.items()
        ],
        source="pandas.DataFrame.notna",
    )


def lengths(frame: pd.DataFrame) -> Finding:
    """Say how many words the queries have, for each selection of rows where there are several.

    Parameters
    ----------
    frame
        Column query, and perhaps selection; n rows.
    """
    words = frame["query"].map(str.split).map(len)
    groups = {"rows": words}
    if "selection" in frame and frame["selection"].nunique() > 1:
        order = frame["selection"].value_counts().index  # the largest first
        groups = {f"{shown(kind)} rows": words[frame["selection"] == kind] for kind in order}
    medians = [f"{name} {one.median():.0f}" for name, one in groups.items()]
    apart = f" ({', '.join(medians)})" * (len(groups) > 1)
    half = "1 word" if words.median() == 1 else f"{words.median():.0f} words"
    return Finding(
        name="lengths",
        claim=f"Half of the queries have {half} or fewer{apart}, and the "
        f"longest has {words.max():.0f}.",
        cells=[
            {"rows": name, "number": len(one), "shortest": one.min(), "median": one.median(),
             "mean": one.mean(), "longest": one.max()}
            for name, one in groups.items()
        ],
        plot=plots.lengths(groups),
        source=_VALIDATE,
    )  # fmt: skip


def against_parent(changes: Mapping[str, Any] | None) -> Finding:
    """Say what a version changed in the one before it.

    Parameters
    ----------
    changes
        As `data.validation.changes_since_parent` returns them; None for a first version.
    """
    name, source = "against_parent", "nivesh_lib.data.validation.compare_versions"
    if changes is None:
        return Finding(
            name=name, claim="This is a first version: there is none before it to compare it with."
        )
    old, new = (shown(changes[side]).replace("@", " ") for side in ("old", "new"))
    counts = pd.DataFrame(changes["labels"], index=[old, new]).T
    shares = counts / counts.sum()
    grown: Any = (shares[new] - shares[old]).idxmax()
    edited = {*(row["id"] for row in changes["relabelled"]), *changes["reworded"]}
    other = f", removes {changes['removed']:,} and edits {len(edited):,}"
    if not changes["removed"] and not edited:
        other = " and changes none of them"
    before, now = changes["mean_words"]
    if changes["length_shift"]["p"] < _SURE and f"{now:.1f}" == f"{before:.1f}":
        length = f"queries are of other lengths ({now:.1f} words on average, as before)"
    elif changes["length_shift"]["p"] < _SURE:
        than = "longer" if now > before else "shorter"
        length = f"queries are {than} ({now:.1f} words on average, {before:.1f} before)"
    else:
        length = "whether queries became longer or shorter, these rows cannot tell"
    return Finding(
        name=name,
        claim=sentence(
            f"{new} adds {counted(changes['added'], 'row')} to {old}{other}; "
            f"{quoted(grown)} grew most, from "
            f"{percent(shares[old][grown])} to {percent(shares[new][grown])} of the rows, and "
            f"{length}"
        ),
        cells=counts.rename(index=shown).reset_index(names="label"),
        plot=Plot(
            kind="shares",
            data={"shares": shares.to_dict()},
            alt=f"Share of each label in {old} and {new}; {shown(grown)} grew most.",
        ),
        source=source,
    )


def dates(frame: pd.DataFrame) -> Finding:
    """Say which months the rows are from.

    Parameters
    ----------
    frame
        n rows, perhaps with ISO 8601 dates in the column created_at.
    """
    if "created_at" not in frame or not frame["created_at"].notna().any():
        return Finding(name="dates", claim="The data has no dates, so seasons cannot be seen.")
    months = pd.PeriodIndex(frame["created_at"].dropna().str[:7], freq="M").value_counts()
    months = months.reindex(pd.period_range(months.index.min(), months.index.max()), fill_value=0)
    first, last = (month.strftime("%B %Y") for month in months.index[[0, -1]])
    counts = {str(month): int(rows) for month, rows in months.items()}
    return Finding(
        name="dates",
        claim=f"The rows are from {first} to {last}, {months.min():,} to {months.max():,} a month."
        if len(months) > 1
        else f"All dated rows are from {first}.",
        plot=plots.bars(counts, "rows", kind="months"),
        source="pandas.Series.value_counts",
    )


def segments(frame: pd.DataFrame, *, column: str = "income_segment", seed: int = 42) -> Finding:
    """Say whether segments ask for different things (permutation test of independence).

    Parameters
    ----------
    frame
        n rows with the column intent, and perhaps ``column``. Segments of fewer than
        `scores.MIN_ROWS` rows are left out.
    """
    name = "segments"
    if column not in frame:
        return Finding(name=name, claim="The data has no segments, so it cannot be sliced by them.")
    counts = pd.crosstab(frame["intent"], frame[column])
    sizes = counts.sum().sort_values(ascending=False, kind="stable")
    counts = counts[sizes.index[sizes >= MIN_ROWS]]
    counts = counts[counts.sum(axis=1) > 0]
    if counts.shape[1] < 2 or len(counts) < 2:
        return Finding(name=name, claim=f"No two segments have {MIN_ROWS} rows to compare.")
    shares = counts / counts.sum()
    widest: Any = (shares.max(axis=1) - shares.min(axis=1)).idxmax()
    high: Any = shares.loc[widest].idxmax()
    low: Any = shares.loc[widest].idxmin()
    often, rarely = (f"{100 * shares.loc[widest, one]:.0f}" for one in (high, low))
    gap = (
        f"{quoted(widest)} is {often} of 100 queries in the segment {quoted(high)}, and {rarely} "
        f"of 100 in the segment {quoted(low)}"
    )
    shuffled = PermutationMethod(n_resamples=_SHUFFLES, rng=seed)
    p = chi2_contingency(counts, correction=False, method=shuffled).pvalue
    differ = (
        f"segments ask for different things: {gap}"
        if p < _SURE
        else f"whether segments ask for different things, these rows cannot tell; {gap}"
    )
    return Finding(
        name=name,
        claim=sentence(differ),
        cells=shares.rename(index=shown, columns=shown).reset_index(names="label"),
        plot=Plot(
            kind="shares",
            data={"shares": shares[shares.columns[:3]].to_dict()},
            alt=f"Share of each label in the largest segments; {gap}.",
        ),
        source="scipy.stats.chi2_contingency",
    )
