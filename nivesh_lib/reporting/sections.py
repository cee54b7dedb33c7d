"""The evaluation of a run in the order in which a stakeholder asks.

The parts are made from what two notebooks recorded: the evaluation of the models together
(``KEYS``) and the study of optimised models (``gates``, ``race``, ``recommendation``). What was
not recorded is left out, and so is what does not have the expected fields: one damaged table must
not cost the rest of the report.
"""

from __future__ import annotations

from collections.abc import Sequence

from nivesh_lib.reporting import fold_variance  # noqa: F401 (registers its parts)
from nivesh_lib.reporting.tables import (
    PARTS,
    Cell,
    Column,
    Part,
    Record,
    Row,
    Section,
    count,
    interval,
    label,
    number,
    of_100,
    part_of,
    per_cent,
    plain,
    points,
    rows_of,
    score,
    share,
    text,
)
from nivesh_lib.runs.comparison import (
    EVALUATION_KEYS,
    Results,
    comparison_in,
    evaluation_of,
    p_value,
)

# A model's own record may have these too.
KEYS = (*EVALUATION_KEYS, "folds", "repeats", "learning", "over_time", "temporal", "crossed")
_MOST = 12  # rows of a table of findings, the first of which matter most

# Sections: id, title, and the keys of their parts.
_EVALUATION = (
    (
        "folds",
        "Would other training rows give the same score?",
        ("folds", "repeats", "learning"),
    ),
    ("time", "Does it hold over time?", ("over_time", "temporal")),
    ("confidence", "Can its confidence be trusted?", ("calibration",)),
    ("abstention", "When should it abstain?", ("routing",)),
    ("segments", "For whom does it fail?", ("gaps", "segments", "crossed", "flips")),
    ("behaviour", "Which behaviours fail?", ("behaviour",)),
    ("errors", "Where it errs, and what would help", ("help", "overlaps", "flipped", "leaks")),
)
_OPTIMISATION = (("optimisation", "How small and fast can it be?", ("gates",)),)


def sections(results: Results) -> list[Section]:
    """Return the sections for which the evaluation of a run has content, in reading order."""
    made = []
    for found, contents in (
        (evaluation_of(results), _EVALUATION),
        (_optimised(results), _OPTIMISATION),
    ):
        step, record = found or ("", {})
        for name, title, keys in contents:
            parts = tuple(part for key in keys if (part := PARTS[key](record)) is not None)
            if parts:
                made.append(Section(name, title, parts, step))
    return made


def _optimised(results: Results) -> tuple[str, Record] | None:
    """Return the step that evaluated optimised models and its record, if one did."""
    records = ((step, dict(result)) for step, result in results.items())
    return next(((step, record) for step, record in records if record.get("gates")), None)


def unread(results: Results) -> list[str]:
    """Return the keys of the evaluation whose values do not have the expected fields."""
    readers = {**PARTS, "comparison": comparison_in}
    return [
        key
        for found, keys in ((evaluation_of(results), KEYS), (_optimised(results), ("gates",)))
        for key in keys
        if found and found[1].get(key) and readers[key](found[1]) is None
    ]


# --- can its confidence be trusted -------------------------------------------------------------


@part_of("calibration", texts=["model"], estimates=["ece_before"])
def _calibration(record: Record, rows: list[Row]) -> Part:
    best = next((row for row in rows if row["model"] == record.get("model")), rows[0])
    first = f"How far is the stated confidence from the share that is right? {_error_of(best)}"
    return Part(
        sentences=(first, *_at_min_confidence(best)),
        rows=rows,
        columns={
            "Model": label("model"),
            "Off before, points": per_cent("ece_before"),
            "Off after, points": per_cent("ece_after"),
            "Temperature": plain("temperature", "{:.2f}"),
            "Brier score": _brier,
        },
        note="Expected calibration error of the answer given, without its bias: 0 is perfect, and "
        "by chance an estimate can fall a little below. After: with a temperature from the other "
        "folds. A temperature above 1 means that the model was too sure of itself. Brier score: "
        "0 is best, 2 is worst.",
        figure="reliability",
    )


def _error_of(row: Row) -> str:
    """Return the calibration error of a model before and after calibration, as a sentence."""
    sentence = f"That of {row['model']} is off by {of_100(row, 'ece_before')} points on average"
    after = interval(row, "ece_after")
    if after and after.low is not None and after.low <= 0:
        most = "" if after.high is None else f" (at most {100 * after.high:.1f})"
        return sentence + f"; after calibration these queries show no difference{most}."
    return sentence + (f", after calibration by {of_100(row, 'ece_after')}." if after else ".")


def _at_min_confidence(row: Row) -> list[str]:
    """Return coverage and accuracy at the least confidence that the objectives allow."""
    answered_before, right_before, answered, right = (
        of_100(row, f"{name}_{when}")
        for when in ("before", "after")
        for name in ("answered", "right")
    )
    if not (answered_before and right_before and answered and right):
        return []
    return [
        "At the confidence that the objectives ask for, it answers "
        f"{answered} of 100 queries, and {right} of 100 of these answers are right; "
        f"before calibration {answered_before}, and {right_before}."
    ]


def _brier(row: Row) -> Cell:
    before, after = (plain(f"brier_{when}", "{:.3f}")(row).text for when in ("before", "after"))
    return Cell(after, f"before {before}" if before != "not measured" else "")


# --- abstaining -------------------------------------------------------------------------------

_SCORES = {
    "confidence": "confidence alone",
    "certainty": "calibrated confidence and OOD score",
}


@part_of("routing", estimates=["recall_95"])
def _abstention(record: Record, rows: list[Row]) -> Part:
    """Return the share of out-of-scope queries that is rejected, one row for each score."""
    return Part(
        sentences=(
            "A query that belongs to none of the intents should go to a person. How many do, when "
            "95 of 100 queries that do belong are still answered?",
            *_least_cost(rows[-1]),  # of the score that is used
        ),
        rows=rows,
        columns={
            "Score": lambda row: Cell(_SCORES.get(text(row, "score"), text(row, "score"))),
            "Out of scope rejected, of 100": share("recall_95"),
            "AUROC": score("auroc"),
        },
        note="Thresholds are chosen on other rows than those they are judged on. AUROC: how often "
        "a query that belongs is trusted more than one that does not; 0.5 is chance.",
        figure="hand_over",
    )


def _least_cost(row: Row) -> list[str]:
    """Return coverage, rejection and cost at the threshold of least cost, as a sentence."""
    threshold, cost = number(row, "threshold"), number(row, "cost")
    accepted, recall = of_100(row, "acceptance"), of_100(row, "recall")
    if threshold is None or cost is None or not (accepted and recall):
        return []
    return [
        f"At the threshold of least cost, {threshold:.2f}, {accepted} of 100 queries in scope are "
        f"answered and {recall} of 100 outside are rejected; a query costs {cost:.3f} on "
        "average, in the unit of the costs that were set."
    ]


# --- for whom does it fail ---------------------------------------------------------------------


def _named(row: Row, name: str) -> str:
    """Return the name of a group as it is shown: ``income_segment=low`` is income segment: low."""
    return text(row, name).replace("_", " ").replace("=", ": ")


def _group(name: str) -> Column:
    return lambda row: Cell(_named(row, name))


@part_of("gaps", texts=["segment"], estimates=["difference"])
def _gaps(record: Record, rows: list[Row]) -> Part:
    return Part(
        title="Is anyone answered less well?",
        sentences=(_sure_gaps(rows),),
        rows=rows,
        columns={
            "Who": _group("segment"),
            "Queries": count("rows"),
            "Against the rest, points": points("difference"),
            "Verdict": lambda row: Cell(text(row, "verdict") or "not judged"),
            "Smallest that would show": plain("detectable", by=100),
        },
        note="Difference in accuracy between a segment and all other queries. A gap is called one "
        "only when its whole interval, corrected for the number of segments, lies beyond the "
        "margin that is let pass. The last column is the smallest true difference that so many "
        "rows would have shown four times out of five: below it, no news is not good news.",
        figure="segments",
    )


def _sure_gaps(rows: Sequence[Row]) -> str:
    gaps = [_named(row, "segment") for row in rows if text(row, "verdict") == "gap"]
    undecided = sum(text(row, "verdict") == "cannot tell" for row in rows)
    sentence = f"Sure gaps: {', '.join(gaps)}." if gaps else "No segment has a gap that is sure."
    return sentence + f" For {undecided} of {len(rows)} these rows cannot tell." * bool(undecided)


@part_of("segments", texts=["slice"], estimates=["accuracy"])
def _segments(record: Record, rows: list[Row]) -> Part:
    return Part(
        title="Each segment by itself",
        rows=rows,
        columns={
            "Who": _group("slice"),
            "Queries": count("rows"),
            "Right, of 100": share("accuracy"),
            "Macro-F1": score("macro_f1"),
            "Too sure, points": points("calibration"),
            "Abstains, of 100": per_cent("abstained"),
        },
        note="Too sure: mean confidence minus the share that is right. Segments of few rows are "
        "left out, since their intervals would say nothing.",
    )


@part_of("crossed", estimates=["accuracy"])
def _intersections(record: Record, rows: list[Row]) -> Part:
    """Return combinations of segments; the texts of a row are the segments."""
    return Part(
        title="Where segments meet",
        rows=rows,
        columns={
            "Who": lambda row: Cell(", ".join(v for v in row.values() if isinstance(v, str))),
            "Queries": count("rows"),
            "Right, of 100": share("accuracy"),
        },
        note="The lowest first. Each interval stands for itself: of many, the lowest is low by "
        "chance too.",
    )


@part_of("flips", texts=["attribute"], estimates=["flipped"])
def _counterfactuals(record: Record, rows: list[Row]) -> Part:
    return Part(
        title="Does it matter who asks, or how?",
        sentences=(
            "Pairs of queries that differ in one thing only, which should change no answer.",
        ),
        rows=rows,
        columns={
            "What changes": label("attribute"),
            "Queries": count("rows"),
            "Another answer, of 100": share("flipped"),
            "Than the control": _against_control,
        },
        note="Any change to a text can change an answer, so one name for another like it is the "
        "control. More often: p below 0.05, by McNemar's exact test corrected for their number.",
        figure="flips",
    )


def _against_control(row: Row) -> Cell:
    p = number(row, "p_control")
    if p is None:
        return Cell("")
    return Cell("more often" if p < 0.05 else "no more often", f"p {p_value(p)}")


# --- which behaviours fail ---------------------------------------------------------------------


@part_of("behaviour", texts=["model", "test"], estimates=["failed"])
def _behaviour(record: Record, rows: list[Row]) -> Part:
    """Return the failures of the best model, the worst first, beside those of the others."""
    models = {row["model"] for row in rows}
    best = record["model"] if record.get("model") in models else rows[0]["model"]
    of_best = [row for row in rows if row["model"] == best]
    of_best.sort(key=_failed_of_100, reverse=True)
    others = [row for row in rows if row["model"] != best]

    def of_others(row: Row) -> Cell:
        same = [r for r in others if (r["test"], r.get("kind")) == (row["test"], row.get("kind"))]
        return Cell(" · ".join(f"{r['model']}\u00a0{_failed_of_100(r):.0f}" for r in same))

    return Part(
        sentences=(
            "A change that keeps what is asked must keep the answer (invariance); one that says "
            "more plainly what is wanted must not move it the wrong way (direction).",
            f"{best} fails most often at “{of_best[0]['test']}”: "
            f"{of_100(of_best[0], 'failed')} of 100.",
        ),
        rows=of_best,
        columns={
            "Test": label("test", "kind"),
            "Texts": count("rows"),
            f"{best} fails, of 100": share("failed"),
            "The others fail, of 100": of_others,
        },
    )


def _failed_of_100(row: Row) -> float:
    return 100 * (number(row, "failed") or 0)


# --- where it errs, and what would help --------------------------------------------------------


@part_of("help", texts=["group"])
def _help(record: Record, rows: list[Row]) -> Part:
    return Part(
        title="What would help most",
        sentences=tuple(
            f"Most to win: {_named(row, 'group')}, {of_100(row, 'gain')} points of accuracy."
            for row in rows[:1]
            if interval(row, "gain")
        ),
        rows=rows[:_MOST],
        columns={
            "Where": _group("group"),
            "Queries": count("rows"),
            "Of 100 errors": per_cent("share"),
            "Accuracy to win, points": points("gain"),
        },
        note="Accuracy to win: if these queries were answered as well as all others, the most that "
        "work on them alone can give. Groups overlap, so that gains do not add up.",
        figure="help",
    )


@part_of("overlaps", texts=["first", "second"], estimates=["share"])
def _overlaps(record: Record, rows: list[Row]) -> Part:
    return Part(
        title="Intents that overlap",
        sentences=(
            "Confused in both directions: the texts do not tell the two apart, and their "
            "definitions or labels are worth a look.",
        ),
        rows=rows[:_MOST],
        columns={
            "Intents": lambda row: Cell(f"{row['first']} and {row['second']}"),
            "Taken for each other": _both_ways,
            "Of 100 of their queries": per_cent("share"),
        },
        note=f"The first {_MOST} of {len(rows)} pairs." if len(rows) > _MOST else "",
    )


def _both_ways(row: Row) -> Cell:
    there, back = number(row, "first_as_second"), number(row, "second_as_first")
    return Cell("" if there is None or back is None else f"{there:.0f} and {back:.0f}")


@part_of("flipped", estimates=["positive_rate", "negative_rate"])
def _flipped(record: Record, rows: list[Row]) -> Part:
    return Part(
        title="Was right, is wrong now",
        sentences=tuple(
            f"Against {text(row, 'before') or 'the simpler model'}: of 100 queries, "
            f"{of_100(row, 'positive_rate')} that were wrong are right now"
            f" and {of_100(row, 'negative_rate')} that were right are wrong now."
            for row in rows
        ),
    )


_LEAKS = "Did anything leak into the evaluation?"
_NO_LEAK = Part(title=_LEAKS, sentences=("Nothing that the checks look for was found.",))


@part_of("leaks", texts=["message"], when_empty=_NO_LEAK)
def _leaks(record: Record, rows: list[Row]) -> Part:
    return Part(
        title=_LEAKS,
        sentences=tuple(
            f"{'✘ ' * (text(row, 'severity') == 'error')}{row['message']}" for row in rows
        ),
    )


# --- how small and fast ------------------------------------------------------------------------


@part_of("gates", texts=["name"])
def _gates(record: Record, rows: list[Row]) -> Part:
    """Return the verdict on each optimised model, one row for each."""
    allowed = number(rows[0], "allowed_loss")
    refused = "" if allowed is None else f" Refused: it loses more than {100 * allowed:g} points."
    raced = rows_of(record, "race", texts=["model"])
    speeds = {row["model"]: row for row in raced}
    return Part(
        sentences=tuple(
            row["sentence"] for row in rows_of(record, "recommendation", texts=["sentence"])
        ),
        rows=rows,
        columns={
            "Model": label("name"),
            "Verdict": lambda row: Cell(
                text(row, "verdict"), "may lose more" * (row.get("may_lose_more") is True)
            ),
            "Accuracy, points": points("difference"),
            "Same answers, of 100": share("agreement"),
            "One query, p50 ms": lambda row: _latency(speeds.get(row["name"], {})),
            "Times as small": plain("times_as_small"),
        },
        note=f"Against {text(rows[0], 'reference') or 'the model they were made from'}, on the "
        f"same out-of-fold queries.{refused} May lose more: the point holds, the interval reaches "
        f"beyond.{_measured_on(raced)}",
    )


def _latency(row: Row) -> Cell:
    p50, p95 = number(row, "p50_ms"), number(row, "p95_ms")
    if p50 is None:
        return Cell("not measured")
    return Cell(f"{p50:.2f}", "" if p95 is None else f"p95 {p95:.2f}")


def _measured_on(speeds: Sequence[Row]) -> str:
    """Return the processor on which single queries were timed, as a sentence."""
    for row in speeds:
        flags = row.get("flags")
        named = [flag for flag in flags if isinstance(flag, str)] if isinstance(flags, list) else []
        with_flags = f" ({', '.join(named)})" if named else ""
        if processor := text(row, "processor"):
            return f" Measured on {processor}{with_flags}."
    return ""
