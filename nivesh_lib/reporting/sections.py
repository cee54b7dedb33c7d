"""The evaluation of a run in the order in which a stakeholder asks.

It comes from the record of one notebook, whose keys are named in ``KEYS``, and from that of the
one that judged optimised models (``gates``, ``speeds``, ``recommendation``). What is absent is left
out, and so is what does not have the expected shape: records outlive the code that wrote them, and
one odd table must not cost the rest of the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nivesh_lib.reporting import fold_variance
from nivesh_lib.reporting.tables import (
    Cell,
    Part,
    Record,
    Row,
    Section,
    count,
    interval,
    number,
    of_100,
    ranked,
    rows_of,
    scaled,
    share,
    table,
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
_BEFORE, _AFTER = "ece_before", "ece_after"
_MOST = 12  # rows of a table of findings, the first of which matter most


def sections(results: Results) -> list[Section]:
    """Return the sections that the evaluation of a run has something for, in reading order."""
    made = []
    for found, contents in (
        (evaluation_of(results), _EVALUATION),
        (_optimised(results), _OPTIMISATION),
    ):
        step, record = found or ("", {})
        for name, title, builders in contents:
            parts = tuple(part for build in builders if (part := build(record)) is not None)
            if parts:
                made.append(Section(name, title, parts, step))
    return made


def _optimised(results: Results) -> tuple[str, Record] | None:
    """Return the step that judged optimised models and its record, if one did."""
    records = ((step, dict(result)) for step, result in results.items())
    return next(((step, record) for step, record in records if record.get("gates")), None)


def unread(results: Results) -> list[str]:
    """Return the keys of the evaluation that are there and do not hold what the report shows."""
    smaller = _optimised(results)
    odd = ["gates"] if smaller and _gates(smaller[1]) is None else []
    found = evaluation_of(results)
    if not found:
        return odd
    _, record = found
    bad = [
        key
        for key in KEYS
        if record.get(key) and key in _BUILDERS and _BUILDERS[key](record) is None
    ]
    return [
        *(["comparison"] if record.get("comparison") and not comparison_in(record) else []),
        *bad,
        *odd,
    ]


def _of_100(row: Row, *names: str) -> str:
    found = interval(row, *names)
    return of_100(found) if found else ""


# --- can its confidence be trusted -------------------------------------------------------------


def _calibration(record: Record) -> Part | None:
    rows = ranked(record, "calibration", _BEFORE)
    if not rows:
        return None
    best = next((row for row in rows if row["model"] == record.get("model")), rows[0])
    sentences = [f"How far is the stated confidence from the share that is right? {_off(best)}"]
    if at_the_bar := _at_the_bar(best):
        sentences.append(at_the_bar)
    cells = [
        (
            Cell(text(row, "model")),
            scaled(interval(row, _BEFORE)),
            scaled(interval(row, _AFTER)),
            scaled(interval({"t": row.get("temperature")}, "t"), "{:.2f}", by=1),
            _brier(row),
        )
        for row in rows
    ]
    columns = ("Model", "Off before, points", "Off after, points", "Temperature", "Brier score")
    return Part(
        sentences=tuple(sentences),
        table=table(columns, cells),
        note="Expected calibration error of the answer given, without its bias: 0 is perfect, and "
        "by chance an estimate can fall a little below. After: with a temperature from the other "
        "folds. A temperature above 1 means that the model was too sure of itself. Brier score: "
        "0 is best, 2 is worst.",
        figure="reliability",
    )


def _off(row: Row) -> str:
    before, after = _of_100(row, _BEFORE), _of_100(row, _AFTER)
    sentence = f"That of {row['model']} is off by {before} points on average"
    found = interval(row, _AFTER)
    if found and found.low is not None and found.low <= 0:
        most = "" if found.high is None else f" (at most {100 * found.high:.1f})"
        return sentence + f"; after calibration these queries show no difference{most}."
    return sentence + (f", after calibration by {after}." if after else ".")


def _at_the_bar(row: Row) -> str:
    """Return what the objectives' bar of confidence lets through, where the record says so."""
    answered = [_of_100(row, f"answered_{when}") for when in ("before", "after")]
    right = [_of_100(row, f"right_{when}") for when in ("before", "after")]
    if not all(answered) or not all(right):
        return ""
    return (
        "At the confidence that the objectives ask for, it answers "
        f"{answered[1]} of 100 queries, and {right[1]} of 100 of these answers are right; "
        f"before calibration {answered[0]}, and {right[0]}."
    )


def _brier(row: Row) -> Cell:
    before, after = (
        scaled(interval(row, f"brier_{when}"), "{:.3f}", by=1) for when in ("before", "after")
    )
    return Cell(after.text, f"before {before.text}" if before.text != "not measured" else "")


# --- abstaining -------------------------------------------------------------------------------


def _routing(record: Record) -> Part | None:
    """Return the share of out-of-scope queries that is rejected, one row for each score."""
    rows = [
        row
        for row in rows_of(record, "routing")
        if interval(row, "recall_95") or interval(row, "auroc")
    ]
    if not rows:
        return None
    cells = [
        (
            Cell(_judged_by(row)),
            share(interval(row, "recall_95")),
            scaled(interval(row, "auroc"), "{:.3f}", by=1),
        )
        for row in rows
    ]
    columns = ("Judged by", "Out-of-scope turned away, of 100", "AUROC")
    return Part(
        sentences=(
            "A query that belongs to none of the intents should go to a person. How many do, when "
            "95 of 100 queries that do belong are still answered?",
            *_cost(rows[-1]),  # of the score that is used
        ),
        table=table(columns, cells),
        note="Thresholds are chosen on other rows than those they are judged on. AUROC: how often "
        "a query that belongs is trusted more than one that does not; 0.5 is chance.",
        figure="hand_over",
    )


_SCORES = {
    "confidence": "confidence alone",
    "certainty": "calibrated confidence and familiarity",
}


def _judged_by(row: Row) -> str:
    name = text(row, "score")
    return _SCORES.get(name, name)


def _cost(row: Row) -> list[str]:
    """Return what the threshold of least cost does, where the record says so."""
    threshold, cost = number(row, "threshold"), number(row, "cost")
    accepted, recall = _of_100(row, "acceptance"), _of_100(row, "recall")
    if threshold is None or not accepted:
        return []
    sentence = (
        f"At the threshold of least cost, {threshold:.2f}, {accepted} of 100 queries in scope are "
        "answered"
    )
    if recall:
        sentence += f" and {recall} of 100 outside are turned away"
    if cost is not None:
        sentence += f"; a query costs {cost:.3f} on average, in the unit of the costs that were set"
    return [sentence + "."]


# --- for whom does it fail ---------------------------------------------------------------------


def _gaps(record: Record) -> Part | None:
    rows = [row for row in rows_of(record, "gaps", "segment") if interval(row, "difference")]
    if not rows:
        return None
    cells = [
        (
            Cell(_who(row)),
            count(row, "rows"),
            scaled(interval(row, "difference"), "{:+.1f}"),
            Cell(_verdict_of(row)),
            scaled(interval({"d": row.get("detectable")}, "d")),
        )
        for row in rows
    ]
    columns = ("Who", "Queries", "Against the rest, points", "Verdict", "Smallest that would show")
    return Part(
        title="Is anyone answered less well?",
        sentences=(_flagged(rows),),
        table=table(columns, cells),
        note="Difference in accuracy between a segment and all other queries. A gap is called one "
        "only when its whole interval, corrected for the number of segments, lies beyond the "
        "margin that is let pass. The last column is the smallest true difference that so many "
        "rows would have shown four times out of five: below it, no news is not good news.",
        figure="segments",
    )


def _verdict_of(row: Row) -> str:
    return text(row, "verdict") or "not judged"


def _flagged(rows: Sequence[Row]) -> str:
    gaps = [_who(row) for row in rows if _verdict_of(row) == "gap"]
    unsure = [row for row in rows if _verdict_of(row) == "cannot tell"]
    sentence = f"Sure gaps: {', '.join(gaps)}." if gaps else "No segment has a gap that is sure."
    if unsure:
        sentence += f" For {len(unsure)} of {len(rows)} these rows cannot tell."
    return sentence


def _segments(record: Record) -> Part | None:
    rows = [row for row in rows_of(record, "segments") if interval(row, "accuracy") and _who(row)]
    cells = [
        (
            Cell(_who(row), text(row, "model")),
            count(row, "rows"),
            share(interval(row, "accuracy")),
            scaled(interval(row, "macro_f1"), "{:.3f}", by=1),
            scaled(interval(row, "calibration"), "{:+.1f}"),
            scaled(interval(row, "abstained")),
        )
        for row in rows
    ]
    columns = (
        "Who",
        "Queries",
        "Right, of 100",
        "Macro-F1",
        "Too sure, points",
        "Handed over, of 100",
    )
    made = table(columns, cells)
    if made is None:
        return None
    return Part(
        title="Each segment by itself",
        table=made,
        note="Too sure: mean confidence minus the share that is right. Segments of few rows are "
        "left out, since their intervals would say nothing.",
    )


def _crossed(record: Record) -> Part | None:
    """Return combinations of segments; a row's texts name what meets."""
    rows = [row for row in rows_of(record, "crossed") if interval(row, "accuracy") and _meets(row)]
    cells = [
        (Cell(_meets(row)), count(row, "rows"), share(interval(row, "accuracy"))) for row in rows
    ]
    made = table(("Who", "Queries", "Right, of 100"), cells)
    if made is None:
        return None
    return Part(
        title="Where segments meet",
        table=made,
        note="The lowest first. Each interval stands for itself: of many, the lowest is low by "
        "chance too.",
    )


def _meets(row: Row) -> str:
    return ", ".join(value for value in row.values() if isinstance(value, str))


def _who(row: Row) -> str:
    """Return a segment's name as it is shown: ``income_segment=low`` is income segment: low."""
    return text(row, "slice", "segment", "group").replace("_", " ").replace("=", ": ")


def _flips(record: Record) -> Part | None:
    rows = [row for row in rows_of(record, "flips", "attribute") if interval(row, "flipped")]
    cells = [
        (
            Cell(text(row, "attribute"), text(row, "model")),
            count(row, "rows"),
            share(interval(row, "flipped")),
            _against_control(row),
        )
        for row in rows
    ]
    made = table(("What changes", "Queries", "Another answer, of 100", "Than the control"), cells)
    if made is None:
        return None
    return Part(
        title="Does it matter who asks, or how?",
        sentences=(
            "Pairs of queries that differ in one thing only, which should change no answer.",
        ),
        table=made,
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


def _behaviour(record: Record) -> Part | None:
    rows = [row for row in ranked(record, "behaviour", "failed") if text(row, "test")]
    if not rows:
        return None
    models = list(dict.fromkeys(text(row, "model") for row in rows))
    best = record.get("model") if record.get("model") in models else models[0]
    of_best = sorted(
        (row for row in rows if text(row, "model") == best), key=lambda r: -_failing(r)
    )
    cells = [
        (
            Cell(text(row, "test"), text(row, "kind")),
            count(row, "rows"),
            share(interval(row, "failed")),
            Cell(_others(rows, row, best)),
        )
        for row in of_best
    ]
    name = best or "the model"
    worst = of_best[0]
    columns = ("Test", "Texts", f"{name} fails, of 100", "The others fail, of 100")
    return Part(
        sentences=(
            "A change that keeps what is asked must keep the answer (invariance); one that says "
            "more plainly what is wanted must not move it the wrong way (direction).",
            f"{name} fails most often at “{text(worst, 'test')}”: "
            f"{_of_100(worst, 'failed')} of 100.",
        ),
        table=table(columns, cells),
    )


def _failing(row: Row) -> float:
    found = interval(row, "failed")
    return found.value if found else 0.0


def _others(rows: Sequence[Row], row: Row, best: Any) -> str:
    same = [r for r in rows if (r["test"], r.get("kind")) == (row["test"], row.get("kind"))]
    return " · ".join(
        f"{text(other, 'model')}\u00a0{100 * _failing(other):.0f}"
        for other in same
        if text(other, "model") != best
    )


# --- where it errs, and what would help --------------------------------------------------------


def _help(record: Record) -> Part | None:
    rows = [row for row in rows_of(record, "help") if _who(row)]
    if not rows:
        return None
    cells = [
        (
            Cell(_who(row)),
            count(row, "rows"),
            scaled(interval(row, "share")),
            scaled(interval(row, "gain"), "{:+.1f}"),
        )
        for row in rows[:_MOST]
    ]
    columns = ("Where", "Queries", "Of 100 errors", "Accuracy to win, points")
    return Part(
        title="What would help most",
        sentences=_most_to_win(rows[0]),
        table=table(columns, cells),
        note="Accuracy to win: if these queries were answered as well as all others, the most that "
        "work on them alone can give. Groups overlap, so that gains do not add up.",
        figure="help",
    )


def _most_to_win(row: Row) -> tuple[str, ...]:
    gain = interval(row, "gain")
    if gain is None:
        return ()
    return (f"Most to win: {_who(row)}, {of_100(gain)} points of accuracy.",)


def _overlaps(record: Record) -> Part | None:
    rows = [row for row in rows_of(record, "overlaps", "first", "second") if interval(row, "share")]
    cells = [
        (
            Cell(f"{row['first']} and {row['second']}"),
            Cell(_both_ways(row)),
            scaled(interval(row, "share")),
        )
        for row in rows[:_MOST]
    ]
    made = table(("Intents", "Taken for each other", "Of 100 of their queries"), cells)
    if made is None:
        return None
    return Part(
        title="Intents that overlap",
        sentences=(
            "Confused in both directions: the texts do not tell the two apart, and their "
            "definitions or labels are worth a look.",
        ),
        table=made,
        note=f"The first {_MOST} of {len(rows)} pairs." if len(rows) > _MOST else "",
    )


def _both_ways(row: Row) -> str:
    there, back = number(row, "first_as_second"), number(row, "second_as_first")
    return "" if there is None or back is None else f"{there:.0f} and {back:.0f}"


def _flipped(record: Record) -> Part | None:
    sentences = tuple(
        f"Against {text(row, 'before') or 'the simpler model'}: of 100 queries, "
        f"{_of_100(row, 'positive_rate')} that were wrong are right now"
        f" and {_of_100(row, 'negative_rate')} that were right are wrong now."
        for row in rows_of(record, "flipped")
        if interval(row, "positive_rate") and interval(row, "negative_rate")
    )
    return Part(title="Was right, is wrong now", sentences=sentences) if sentences else None


def _leaks(record: Record) -> Part | None:
    title = "Did anything leak into the evaluation?"
    if record.get("leaks") == []:
        return Part(title=title, sentences=("Nothing that the checks look for was found.",))
    sentences = tuple(
        f"{'✘ ' if text(row, 'severity') == 'error' else ''}{message}"
        for row in rows_of(record, "leaks")
        if (message := text(row, "message"))
    )
    return Part(title=title, sentences=sentences) if sentences else None


# --- how small and fast ------------------------------------------------------------------------


def _gates(record: Record) -> Part | None:
    """Return the verdict on each optimised model, one row each."""
    rows = [row for row in rows_of(record, "gates", "name", "verdict") if text(row, "name")]
    if not rows:
        return None
    cells = [
        (
            Cell(text(row, "name")),
            Cell(text(row, "verdict"), "may lose more" * (row.get("may_lose_more") is True)),
            scaled(interval(row, "difference"), "{:+.1f}"),
            share(interval(row, "agreement")),
            _single_query(record, text(row, "name")),
            scaled(interval({"size": row.get("times_as_small")}, "size"), "{:.1f}", by=1),
        )
        for row in rows
    ]
    columns = (
        "Model",
        "Verdict",
        "Accuracy, points",
        "Same answers, of 100",
        "One query, p50 ms",
        "Times as small",
    )
    allowed = number(rows[0], "allowed_loss")
    most = "" if allowed is None else f" Refused: it loses more than {100 * allowed:g} points."
    recommended: Any = record.get("recommendation")
    sentence = text(recommended, "sentence") if isinstance(recommended, Mapping) else ""
    return Part(
        sentences=(sentence,) if sentence else (),
        table=table(columns, cells),
        note=f"Against {text(rows[0], 'reference') or 'the model they were made from'}, on the "
        f"same out-of-fold queries.{most} May lose more: the point holds, the interval reaches "
        f"beyond.{_measured_on(record)}",
    )


def _single_queries(record: Record) -> list[Row]:
    return [row for row in rows_of(record, "speeds", "model") if number(row, "batch_size") == 1]


def _single_query(record: Record, model: str) -> Cell:
    """Return the time of a single query at the fewest threads, with its p95."""
    rows = [row for row in _single_queries(record) if row["model"] == model]
    rows.sort(key=lambda row: number(row, "threads") or 0)
    p50, p95 = (number(rows[0], name) if rows else None for name in ("p50_ms", "p95_ms"))
    if p50 is None:
        return Cell("not measured")
    return Cell(f"{p50:.2f}", "" if p95 is None else f"p95 {p95:.2f}")


def _measured_on(record: Record) -> str:
    for row in _single_queries(record):
        flags = row.get("flags")
        named = [flag for flag in flags if isinstance(flag, str)] if isinstance(flags, list) else []
        with_flags = f" ({', '.join(named)})" if named else ""
        if processor := text(row, "processor"):
            return f" Measured on {processor}{with_flags}."
    return ""


_Builder = Callable[[Record], Part | None]
_BUILDERS: dict[str, _Builder] = {
    "folds": fold_variance.folds,
    "repeats": fold_variance.repeats,
    "learning": fold_variance.learning,
    "over_time": fold_variance.over_time,
    "temporal": fold_variance.temporal,
    "calibration": _calibration,
    "routing": _routing,
    "gaps": _gaps,
    "segments": _segments,
    "crossed": _crossed,
    "flips": _flips,
    "behaviour": _behaviour,
    "help": _help,
    "overlaps": _overlaps,
    "flipped": _flipped,
    "leaks": _leaks,
}
_Contents = tuple[tuple[str, str, tuple[_Builder, ...]], ...]
_OPTIMISATION: _Contents = (("optimisation", "How small and fast can it be?", (_gates,)),)
_EVALUATION: _Contents = (
    (
        "folds",
        "Would other training rows give the same score?",
        (fold_variance.folds, fold_variance.repeats, fold_variance.learning),
    ),
    ("time", "Does it hold over time?", (fold_variance.over_time, fold_variance.temporal)),
    ("confidence", "Can its confidence be trusted?", (_calibration,)),
    ("handover", "What is handed over to a person?", (_routing,)),
    ("segments", "For whom does it fail?", (_gaps, _segments, _crossed, _flips)),
    ("behaviour", "Which behaviours fail?", (_behaviour,)),
    ("errors", "Where it errs, and what would help", (_help, _overlaps, _flipped, _leaks)),
)
