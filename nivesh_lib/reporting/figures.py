"""Figures in one style. Each function returns its Axes; `figure_of` adds the title."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from datetime import datetime
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from nivesh_lib.records.finding import Finding
from nivesh_lib.wording import human_bytes, shown

# The reference or before, the model or now, what is beside the point, marks and warnings: each has
# at least three times the contrast to white that a page has to itself.
INK, ACCENT, SOFT, WARM = "#1c2430", "#0b5cad", "#75808d", "#b5541c"
# Colour, line, marker and hatch of groups in their order: they differ in grey as well.
_GROUPS = ((INK, "-", "s", ""), (ACCENT, "--", "o", "///"), (SOFT, ":", "^", ""))
_STAGES = {"Development": "#c3cad3", "Staging": SOFT, "Production": ACCENT, "Archived": "#e9ecf0"}
_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlepad": 12,
    "figure.dpi": 100,
    "text.color": INK,
    "axes.labelcolor": INK,
}


def shortened(labels: Iterable[Any], longest: int = 32) -> list[str]:
    """Return labels cut to ``longest`` characters; different ones stay different.

    The end is cut; where labels would become equal, the middle; where they still would, long
    labels are cut and numbered.
    """
    texts = [str(label) for label in labels]
    distinct = list(dict.fromkeys(texts))
    half = longest // 2
    cuts: tuple[Callable[[int, str], str], ...] = (
        lambda number, text: text[: longest - 1] + "…",
        lambda number, text: text[: half - 1] + "…" + text[half - longest :],
        lambda number, text: f"{text[: longest - 8]}… ({number})",
    )
    for cut in cuts:
        short = {
            text: text if len(text) <= longest else cut(number, text)
            for number, text in enumerate(distinct, start=1)
        }
        if len(set(short.values())) == len(distinct):
            break
    return [short[text] for text in texts]


def _axes(width: float, height: float, x: str = "", y: str = "") -> Axes:
    plt.rcParams["text.parse_math"] = False  # a label may hold a dollar sign
    with plt.rc_context(_STYLE):
        _, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return axes


def _styles(names: Sized) -> Iterator[tuple[str, str, str, str]]:
    """Return colour, line, marker and hatch of each group; one alone has the model's."""
    return itertools.cycle(_GROUPS if len(names) > 1 else [(ACCENT, "-", "o", "")])


def set_title(axes: Axes, title: str) -> None:
    """Set a title, wrapped to the room beside the tick labels."""
    figure: Any = axes.get_figure(root=True)
    figure.draw_without_rendering()  # the room is known then
    room = figure.get_size_inches()[0] - axes.get_window_extent().x0 / figure.dpi
    words = " ".join(shortened(title.split()))  # a label among them may be very long
    lines = textwrap.wrap(words, max(30, int(10 * room)), break_long_words=False)
    with plt.rc_context(_STYLE):
        axes.set_title("\n".join(lines), loc="left")


def label_bars(counts: Mapping[str, int], *, unit: str) -> Axes:
    """Draw one horizontal bar for each label, the most frequent on top, with its count.

    Parameters
    ----------
    counts : mapping
        Label -> number of rows.
    unit : str
        What is counted.
    """
    ordered = pd.Series(counts).sort_values()
    axes = _axes(8, 0.8 + 0.27 * len(ordered), unit)
    bars = axes.barh(range(len(ordered)), ordered.to_numpy(), color=ACCENT, height=0.7)
    axes.set_yticks(range(len(ordered)), shortened(map(shown, ordered.index)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.bar_label(bars, padding=3, fontsize=9)
    axes.tick_params(axis="y", length=0)
    return axes


def length_histogram(rows: Mapping[str, Mapping[Any, int]]) -> Axes:
    """Draw the share of queries by number of words, one outline for each named group.

    Parameters
    ----------
    rows : mapping
        Group -> number of words, also as text -> number of its queries that have so many.
    """
    axes = _axes(8, 3.2, "words in the query", "share of queries")
    longest = max(int(words) for of in rows.values() for words in of)
    bins = [n + 0.5 for n in range(min(longest, 60) + 1)]
    groups = zip(shortened(rows), rows.values(), _styles(rows), strict=False)
    for name, of, (colour, line, *_) in groups:
        outline: Any = {"histtype": "step", "lw": 2, "color": colour, "ls": line}
        shares = np.array([*of.values()]) / sum(of.values())
        axes.hist([int(words) for words in of], bins=bins, weights=shares, label=name, **outline)
    if len(rows) > 1:
        axes.legend(frameon=False)
    return axes


def calendar_bars(counts: Mapping[str, int], *, unit: str) -> Axes:
    """Draw a number for each month, such as ``2026-01``, in their order."""
    axes = _axes(8, 2.8, y=unit)
    axes.bar(list(counts), list(counts.values()), color=ACCENT, width=0.8)
    axes.set_xticks(range(0, len(counts), 1 + len(counts) // 40))
    axes.tick_params(axis="x", rotation=60, labelsize=8)
    return axes


def interval_dots(
    estimates: Mapping[str, Any],
    *,
    targets: Mapping[str, float] | None = None,
    unit: str,
    times: float = 1.0,
    margin: float = 0.0,
) -> Axes:
    """Draw each named estimate with its interval, the first on top.

    Parameters
    ----------
    estimates : mapping
        Name -> value, low and high.
    targets : mapping, optional
        Name -> the mark of that row, a dashed line in it.
    unit : str
        Of the axis, such as macro-F1.
    times : float
        What the estimates are multiplied by.
    margin : float
        Intervals wholly further from zero have the colour of warnings; 0 for none.
    """
    names = list(estimates)[::-1]
    axes = _axes(8, 0.9 + 0.36 * max(len(names), 1), f"{unit}, with 95 % interval")
    low, values, high = times * _ends(estimates[name] for name in names)
    beyond = (np.maximum(low, -high) > margin) & (margin > 0)
    rows = np.arange(len(names))
    for mask, colour, dot in ((~beyond, ACCENT, "o"), (beyond, WARM, "D")):
        axes.hlines(rows[mask], low[mask], high[mask], color=colour, lw=2)
        axes.scatter(values[mask], rows[mask], color=colour, s=36, marker=dot)
    for name, mark in (targets or {}).items():
        row = names.index(name)
        axes.plot([mark] * 2, [row - 0.4, row + 0.4], color=WARM, ls="--", lw=1.5)
        axes.annotate(f" mark {mark:g}", (mark, row + 0.4), va="top", color=WARM, fontsize=9)
    axes.set_yticks(range(len(names)), shortened(names))
    axes.set_ylim(-0.6, len(names) - 0.4)
    return axes


def _ends(estimates: Iterable[Any]) -> np.ndarray:
    """Return low, value and high of estimates, shape (3, n)."""
    ends = [[one[end] for end in ("low", "value", "high")] for one in estimates]
    return np.array(ends, dtype=float).reshape(-1, 3).T


def difference_dots(
    differences: Mapping[str, Any], *, margin: float = 0.0, unit: str = "points of accuracy"
) -> Axes:
    """Draw differences of shares with their intervals, in percentage points.

    Parameters
    ----------
    differences : mapping
        Name -> value, low and high, as shares of 1.
    margin : float
        Half the width of the shaded band of tolerated differences, as a share of 1. Intervals
        wholly outside it have the colour of warnings.
    """
    axes = interval_dots(differences, unit=unit, times=100, margin=100 * margin)
    axes.axvline(0, color=SOFT, lw=1, zorder=0)
    if margin:
        axes.axvspan(-100 * margin, 100 * margin, color=SOFT, alpha=0.25, lw=0)
        axes.set_xlabel(f"{axes.get_xlabel()}; shaded: within {100 * margin:g} points")
    return axes


def confusion_heatmap(table: pd.DataFrame) -> Axes:
    """Draw a confusion matrix; errors are coloured by the share of the true label, with counts.

    Right answers, on the diagonal, have no colour: they would outshine every error.

    Parameters
    ----------
    table : DataFrame (n_labels, n_labels)
        Counts; true labels as rows, predicted labels as columns. Of more than 20 labels the 20
        with the most errors are drawn.
    """
    errors = table - np.diag(np.diag(table))
    which = ""
    if len(table) > 20:
        kept = errors.sum(axis=1).sort_values(ascending=False, kind="stable").index[:20]
        errors, which = errors.loc[kept, kept], f", the 20 of {len(table)} labels with most errors"
    shares = errors.div(table.sum(axis=1).loc[errors.index].clip(lower=1), axis=0).to_numpy()
    names = shortened(map(shown, errors.index))
    size = max(2.6, 0.6 + 0.08 * max(map(len, names))) + 0.38 * len(errors)
    axes = _axes(size + 1.2, size)
    axes.imshow(shares, cmap="Oranges", vmin=0, vmax=max(0.2, shares.max(initial=0)))
    for row, column in np.ndindex(shares.shape):
        count = table.loc[errors.index[row], errors.index[column]]
        if count:
            colour = SOFT if row == column else INK
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(
        range(len(errors)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8
    )
    axes.set_yticks(range(len(errors)), names, fontsize=8)
    axes.set_xlabel(f"predicted{which}")
    axes.set_ylabel(f"true{which}")
    axes.tick_params(length=0)
    return axes


def reliability(bins: Mapping[str, Any]) -> Axes:
    """Draw accuracy against confidence for each named set of bins.

    Parameters
    ----------
    bins : mapping
        Name -> the columns ``confidence``, ``accuracy`` (from 0 to 1), and optionally the interval
        of the accuracy, ``low`` and ``high``; one value for each bin.
    """
    axes = _axes(5, 4.2, "confidence of the answer", "share that was right")
    axes.plot([0, 1], [0, 1], color=SOFT, ls="--", lw=1)
    for (name, table), (colour, line, dot, _) in zip(bins.items(), _styles(bins), strict=False):
        drawn: Any = {"color": colour, "ls": line, "marker": dot, "ms": 5, "label": name}
        axes.plot(table["confidence"], table["accuracy"], **drawn)
        if "low" in table:
            axes.vlines(table["confidence"], table["low"], table["high"], color=colour, alpha=0.35)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    if len(bins) > 1:
        axes.legend(frameon=False, loc="upper left")
    return axes


def threshold_curves(
    thresholds: Sequence[float],
    answered: Sequence[float],
    right: Sequence[float | None],
    start: int,
    **_: Any,
) -> Axes:
    """Draw the share of queries answered from a confidence on, and of these answers the right ones.

    Parameters
    ----------
    thresholds, answered, right
        One value for each threshold; None where nothing is answered.
    start
        The number of the threshold that is marked.
    """
    axes = _axes(7, 3.8, "confidence from which it answers", "share")
    axes.plot(thresholds, answered, color=ACCENT, lw=2, label="of the queries, answered")
    shares = np.array(right, dtype=float)
    axes.plot(thresholds, shares, color=INK, lw=2, ls="--", label="of these answers, right")
    axes.axvline(thresholds[start], color=WARM, ls=":", lw=1.5)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, loc="lower left")
    return axes


def risk_coverage(curves: Mapping[str, Any]) -> Axes:
    """Draw the error rate of accepted predictions against the share that is accepted.

    Parameters
    ----------
    curves : mapping
        Name -> the columns ``coverage`` and ``risk``, both shares; coverage rises.
    """
    axes = _axes(7, 3.8, "share of queries that are answered", "share of answers that are wrong")
    series = zip(curves.values(), shortened(curves), _styles(curves), strict=False)
    for table, name, (colour, line, *_) in series:
        # Each step holds until the next, less certain answers are added.
        steps: Any = {"drawstyle": "steps-post", "lw": 2}
        axes.plot(table["coverage"], table["risk"], ls=line, color=colour, label=name, **steps)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left")
    return axes


def waiting_curves(waited: Mapping[str, Sequence[float]], mark: float = 0.0) -> Axes:
    """Draw the share of calls that were answered within a time, one curve for each group.

    Parameters
    ----------
    waited : mapping
        Group -> milliseconds, above 0 and rising, each of an equal share of the calls.
    mark : float
        Milliseconds, a dashed line; 0 for none.
    """
    axes = _axes(8, 3.6, "milliseconds (logarithmic)", "share answered within")
    for (name, times), (colour, line, *_) in zip(waited.items(), _styles(waited), strict=False):
        axes.plot(times, np.linspace(0, 1, len(times)), ls=line, color=colour, lw=2, label=name)
    if mark:
        axes.axvline(mark, color=WARM, ls="--", lw=1.5, label=f"mark {mark:g} ms")
    axes.axhline(0.95, color=SOFT, lw=0.8, zorder=0)
    axes.annotate("95 of 100", (0, 0.95), xycoords=("axes fraction", "data"), va="bottom",
                  color=SOFT, fontsize=9)  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, loc="center right")
    return axes


def size_curves(curves: Mapping[str, Any]) -> Axes:
    """Draw macro-F1 with its interval against the number of training rows.

    Parameters
    ----------
    curves : mapping
        Name -> ``rows``, on a logarithmic scale, and ``macro_f1`` with ``_low`` and ``_high``.
    """
    axes = _axes(7, 3.6, "rows to learn from", "macro-F1")
    for (name, table), (colour, line, dot, _) in zip(curves.items(), _styles(curves), strict=False):
        drawn: Any = {"color": colour, "ls": line, "marker": dot, "ms": 5, "label": name}
        axes.plot(table["rows"], table["macro_f1"], **drawn)
        bounds = table["macro_f1_low"], table["macro_f1_high"]
        axes.vlines(table["rows"], *bounds, color=colour, alpha=0.35)
    axes.set_xscale("log", base=2)
    ticks = sorted({round(rows) for table in curves.values() for rows in table["rows"]})
    axes.set_xticks(ticks, [f"{rows:,}" for rows in ticks])
    axes.legend(frameon=False)
    return axes


_LARGEST = 600.0  # area of the largest dot of a scatter, in square points


def cost_scatter(points: Sequence[Mapping[str, Any]]) -> Axes:
    """Draw accuracy against latency, one dot for each model; its area is the size on disk.

    Parameters
    ----------
    points : sequence of mapping
        ``name``, ``accuracy`` (value, low, high; shares of 1), ``ms`` within which 95
        of 100 queries are answered, and ``bytes`` on disk. The last point is highlighted.
    """
    within = "milliseconds within which 95 of 100 queries are answered (logarithmic)"
    axes = _axes(9, 4.8, within, "accuracy, with 95 % interval")
    largest = max(point["bytes"] for point in points)
    axes.set_xscale("log")
    for place, point in enumerate(points):
        newest = place == len(points) - 1
        accuracy, colour = point["accuracy"], ACCENT if newest else INK
        ends = [accuracy["low"], accuracy["high"]]
        axes.plot([point["ms"]] * 2, ends, color=SOFT, lw=1.2, zorder=1)
        area = max(_LARGEST * point["bytes"] / largest, 12)
        axes.scatter(
            [point["ms"]],
            [accuracy["value"]],
            s=area,
            color=colour if newest else "white",
            edgecolor=colour,
            lw=1.6,
            zorder=2 + 1 / area,  # a small dot stays visible on a large one
        )
    times = [point["ms"] for point in points]
    axes.set_xlim(min(times) / 2, max(times) * 4)  # room for the names
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    names = shortened([point["name"] for point in points], 28)
    sized = [f"{n}, {human_bytes(p['bytes'])}" for n, p in zip(names, points, strict=True)]
    _label_dots(axes, sized)
    return axes


# Possible places of a label: right or left of its dot, and above it by multiples of its height.
_RISES = (0, 0.8, -0.8, 1.6, -1.6, 2.4, -2.4, 3.2, -3.2, 4, -4, 5, -5)
_BESIDE = [(side, rise) for rise in _RISES for side in (1, -1)]
_GAP = 5.0  # pixels between things


def _label_dots(axes: Axes, names: Sequence[str]) -> None:
    """Write a name beside each dot, where it overlaps least with names, dots and intervals.

    Names are placed from the last dot to the first. A line connects a name that is not directly
    beside its dot.
    """
    figure: Any = axes.get_figure(root=True)
    figure.draw_without_rendering()  # positions are known only then
    frame, to_points = axes.get_window_extent(), 72 / figure.dpi
    dots: list[Any] = list(axes.collections)
    taken = [*map(_box_of_dot, dots), *(line.get_window_extent() for line in axes.lines)]
    taken = [box.padded(_GAP / 2) for box in taken]
    for name, dot in list(zip(names, dots, strict=True))[::-1]:
        own = _box_of_dot(dot)
        style: Any = {"fontsize": 9, "weight": "bold" if dot is dots[-1] else "normal"}
        measured = axes.text(0.5, 0.5, name, transform=axes.transAxes, **style)
        size = measured.get_window_extent()
        measured.remove()
        boxes = [_moved(size, own, side, rise) for side, rise in _BESIDE]
        best = min(boxes, key=lambda box: _covered(box, taken, frame))
        taken.append(best)
        left = best.x1 < own.x1
        across = (best.x1 if left else best.x0) - (own.x0 + own.x1) / 2
        up = (best.y0 + best.y1 - own.y0 - own.y1) / 2
        lead = {"arrowstyle": "-", "lw": 0.8, "color": INK, "relpos": (int(left), 0.5)}
        lead |= {"shrinkA": 0, "shrinkB": own.width / 2 * to_points}
        axes.annotate(
            name,
            dot.get_offsets()[0],
            xytext=(across * to_points, up * to_points),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            arrowprops=lead if abs(up) > best.height else None,
            **style,
        )


def _box_of_dot(dot: Any) -> Bbox:
    x, y = dot.get_offset_transform().transform(dot.get_offsets()[0])
    radius = float(np.sqrt(dot.get_sizes()[0])) / 2 * dot.figure.dpi / 72
    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)


def _moved(written: Bbox, dot: Bbox, side: int, rise: float) -> Bbox:
    """Return the box of a text that is moved to one side of a dot."""
    left = dot.x1 + _GAP if side > 0 else dot.x0 - _GAP - written.width
    lower = (dot.y0 + dot.y1 - written.height) / 2 + rise * written.height
    return Bbox.from_bounds(left, lower, written.width, written.height)


def _covered(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> float:
    """Return the area of a box that overlaps with others or lies outside of the frame, in px²."""
    shared = [Bbox.intersection(box, other) for other in taken]
    inside = Bbox.intersection(box, frame)
    outside = box.width * box.height - (inside.width * inside.height if inside else 0.0)
    return sum(part.width * part.height for part in shared if part) + outside


def share_bars(shares: Mapping[str, Mapping[str, float]]) -> Axes:
    """Draw shares, with one bar for each group beside the others.

    Parameters
    ----------
    shares : mapping
        Group -> value, such as a label -> its share.
    """
    table = pd.DataFrame(shares).fillna(0.0)
    table = table.sort_values(table.columns[0])
    axes = _axes(8, 1.0 + 0.34 * len(table), "share of queries")
    height = 0.8 / table.shape[1]
    first = np.arange(len(table)) + (table.shape[1] - 1) / 2 * height
    groups = zip(table, shortened(table.columns), _styles([*table]), strict=False)
    for i, (name, label, (colour, _, _, hatch)) in enumerate(groups):
        bar: Any = {"height": height, "label": label, "color": colour, "hatch": hatch}
        axes.barh(first - i * height, table[name], edgecolor="white", lw=0, **bar)
    axes.set_yticks(range(len(table)), shortened(map(shown, table.index)), fontsize=9)
    axes.figure.legend(loc="outside lower center", ncols=table.shape[1], frameon=False)
    return axes


def learning_curves(history: Sequence[Mapping[str, float]]) -> Axes:
    """Draw the cross-entropy of each epoch on training and validation rows.

    Parameters
    ----------
    history : sequence of mapping
        ``epoch``, ``train_loss`` and ``validation_loss``; the epoch of the least validation loss
        is marked.
    """
    table = pd.DataFrame(history).set_index("epoch")
    axes = _axes(7, 3.6, "epoch", "cross-entropy")
    named = {"train_loss": "training rows", "validation_loss": "watched rows"}
    for (column, name), (colour, line, dot, _) in zip(named.items(), _styles(named), strict=False):
        if column in table:
            drawn: Any = {"color": colour, "ls": line, "marker": dot, "ms": 4, "label": name}
            axes.plot(table.index, table[column], **drawn)
    if "validation_loss" in table:
        best = table.index[int(table["validation_loss"].argmin())]
        axes.axvline(float(best), color=WARM, ls="--", lw=1.5)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return axes


def before_and_now(measures: Mapping[str, Mapping[str, Any]]) -> Axes:
    """Draw each measure before and now with its interval, the first on top.

    Parameters
    ----------
    measures : mapping
        Name -> ``before`` and ``now``, each with value, low and high, as shares of 1.
    """
    axes = _axes(8, 1.6 + 0.6 * len(measures), "of 100, with 95 % interval")
    groups = ("before", "now")
    for group, (colour, _, dot, _), shift in zip(groups, _GROUPS, (-0.15, 0.15), strict=False):
        low, values, high = 100 * _ends(of[group] for of in measures.values())
        rows = np.arange(len(measures)) + shift
        axes.hlines(rows, low, high, color=colour, lw=2)
        axes.plot(values, rows, dot, ms=6, color=colour, label=group)
    axes.set_yticks(range(len(measures)), shortened(measures))
    axes.set_ylim(len(measures) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return axes


def distance_bars(distances: Mapping[str, float], thresholds: Mapping[str, float]) -> Axes:
    """Draw the largest change of each aspect between two samples, the first on top.

    Parameters
    ----------
    distances, thresholds : mapping
        Aspect -> its largest change in standard errors, and the one from which it has moved, a
        dashed line.
    """
    axes = _axes(
        8, 0.9 + 0.36 * len(distances), "largest change from before to now, in standard errors"
    )
    rows, marks = np.arange(len(distances)), [thresholds[column] for column in distances]
    axes.barh(rows, list(distances.values()), height=0.6, color=SOFT)
    label = "has moved from here on"
    axes.vlines(marks, rows - 0.4, rows + 0.4, color=WARM, ls="--", lw=1.5, label=label)
    axes.set_yticks(rows, shortened(distances))
    axes.set_ylim(len(distances) - 0.4, -0.6)
    axes.figure.legend(loc="outside lower center", frameon=False)
    return axes


# Kind of a finding's plot -> its drawing from plain data.
def stage_bars(stays: Sequence[Mapping[str, str]]) -> Axes:
    """Draw a line for each version over time, the latest version on top, coloured by stage.

    Parameters
    ----------
    stays : sequence of mapping
        version, stage, start and end, times in ISO 8601; an empty end is open.
    """
    rows = {version: n for n, version in enumerate(dict.fromkeys(s["version"] for s in stays))}
    times = [date2num(datetime.fromisoformat(stay["start"])) for stay in stays]
    now = max(times) + max(0.1 * (max(times) - min(times)), 1.0)  # days; open ends reach here
    axes = _axes(8, 1.4 + 0.36 * len(rows))
    for stage, colour in _STAGES.items():
        mine = [n for n, stay in enumerate(stays) if stay["stage"] == stage]
        closed = (stays[n]["end"] for n in mine)
        ends = [date2num(datetime.fromisoformat(end)) if end else now for end in closed]
        at = [rows[stays[n]["version"]] for n in mine]
        axes.hlines(at, [times[n] for n in mine], ends, color=colour, lw=9, label=stage)
    axes.xaxis_date()
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.legend(frameon=False, ncols=len(_STAGES), loc="upper center", bbox_to_anchor=(0.5, -0.25))
    return axes


def rollout_timeline(
    seconds: float,
    at: Sequence[float],
    answered: Mapping[str, Sequence[float]],
    moves: Sequence[tuple[float, str, str]],
    drift: Mapping[str, Any],
    kept: Mapping[str, Any],
    draft: tuple[float, int] | None = None,
) -> Axes:
    """Draw who answered, the test for drift and corrections over time, one below the other.

    Parameters
    ----------
    seconds
        How long it took.
    at, answered
        Times in seconds, and release -> its share of the answers until then.
    moves
        When a release moved, which one, and to what.
    drift, kept
        ``at``, with the p-value ``p`` and ``on``, whether that was drift; and with ``n``, how many
        corrections there were.
    draft
        When a draft was written, and how many rows were added to it.
    """
    axes = _axes(8, 7)
    figure: Any = axes.figure
    figure.clear()
    with plt.rc_context(_STYLE):
        log, first, below, last = figure.subplots(4, 1, sharex=True, height_ratios=(2, 3, 1.3, 1.3))
    last.set_xlim(0, seconds)
    _draw_moves(log, moves, seconds)
    _draw_answers(first, at, answered)
    for when, *_ in moves:
        first.axvline(when, color=INK, lw=0.8, ls=":")
    below.plot(drift["at"], drift["p"], color=INK, lw=1.5, drawstyle="steps-post")
    _shade(below, drift["at"], drift["on"])
    below.set_yscale("log")
    below.set_yticks([0.001, 0.05, 1], ["0.001", "0.05", "1"])
    below.yaxis.set_minor_locator(NullLocator())
    below.set_ylim(5e-4, 2)
    below.axhline(0.05, color=SOFT, ls="--", lw=1)
    below.set_ylabel("p-value,\ndrift")
    last.plot(kept["at"], kept["n"], color=INK, lw=1.5, drawstyle="steps-post")
    last.set_ylim(0, 1.3 * max(*kept["n"], 1))
    last.set_ylabel("corrections")
    if draft:
        last.axvline(draft[0], color=ACCENT, ls="--", lw=1.5)
        last.annotate(f"a draft with {draft[1]} rows more", (draft[0], 0.05), (4, 0), fontsize=9,
                      xycoords=("data", "axes fraction"), textcoords="offset points")  # fmt: skip
    last.set_xlabel("seconds")
    return log


def _draw_moves(axes: Axes, moves: Sequence[tuple[float, str, str]], seconds: float) -> None:
    """Write what the log says where it happened, on slanted lines; what is near is one text."""
    said: dict[float, str] = {}
    for when, release, step in moves:
        near = [one for one in said if when - one < 0.025 * seconds][:1] or [when]
        known = f"{said[near[0]]}, " if near[0] in said else ""
        release = "" if f"{release} " in known else f"{release} "
        said[near[0]] = f"{known}{release}{step}{' %' if step.isdecimal() else ''}"
    for when, words in said.items():
        axes.annotate(words, (when, 0), xycoords=("data", "axes fraction"), fontsize=9,
                      rotation=50, rotation_mode="anchor")  # fmt: skip
    axes.axis("off")


def _draw_answers(axes: Axes, at: Sequence[float], answered: Mapping[str, Sequence[float]]) -> None:
    """Draw the share of each release as an area upon the others."""
    looks = itertools.cycle(((SOFT, ""), (WARM, "xx"), (ACCENT, "//")))
    low = np.zeros(len(at))
    for (release, shares), (colour, hatch) in zip(answered.items(), looks, strict=False):
        high = low + 100 * np.array(shares)
        axes.fill_between(at, low, high, step="pre", facecolor=colour, label=release, lw=0,
                          hatch=hatch, edgecolor="white")  # fmt: skip
        low = high
    axes.set_ylim(0, 100)
    axes.set_ylabel("of 100 answers")
    axes.legend(fontsize=9, loc="lower left", title="by release", framealpha=1)


def _shade(axes: Axes, at: Sequence[float], on: Sequence[bool]) -> None:
    """Shade where a verdict is on, and name the longest such time."""
    room = axes.get_xaxis_transform()
    axes.fill_between(at, 0, 1, where=on, step="post", transform=room, color=WARM, alpha=0.3, lw=0)
    runs = [
        (value, [*parts])
        for value, parts in itertools.groupby(zip(at, on, strict=True), lambda one: one[1])
    ]
    longest = max((parts for value, parts in runs if value), key=len, default=[])
    for when, _ in longest[:1]:
        axes.annotate("verdict: drift", (when, 0.7), (4, 0), fontsize=9,
                      xycoords=("data", "axes fraction"), textcoords="offset points")  # fmt: skip


KINDS: dict[str, Callable[..., Axes]] = {
    "bars": label_bars,
    "confusions": lambda labels, counts: confusion_heatmap(
        pd.DataFrame(counts, index=labels, columns=labels)
    ),
    "differences": difference_dots,
    "epochs": learning_curves,
    "intervals": interval_dots,
    "shares": share_bars,
    "lengths": length_histogram,
    "months": calendar_bars,
    "reliability": reliability,
    "risk_coverage": risk_coverage,
    "thresholds": threshold_curves,
    "waits": waiting_curves,
    "sizes": size_curves,
    "stages": stage_bars,
    "rollout": rollout_timeline,
    "costs": cost_scatter,
    "before_and_now": before_and_now,
    "distances": distance_bars,
}


def figure_of(finding: Finding, *, titled: bool = True) -> Figure:
    """Return the figure of a finding, with its claim as title.

    Parameters
    ----------
    titled
        False where the claim stands above the figure, as on a page.

    Raises
    ------
    ValueError
        The finding has no plot, or one of an unknown kind.
    """
    if finding.plot is None or finding.plot.kind not in KINDS:
        kind = finding.plot and finding.plot.kind
        raise ValueError(f"{finding.name} has no figure: {kind!r} is none of {sorted(KINDS)}")
    axes = KINDS[finding.plot.kind](**finding.plot.data)
    if titled:
        set_title(axes, finding.title)
    figure: Any = axes.get_figure(root=True)
    plt.close(figure)
    return figure
