from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from nivesh_lib.reporting.figures import (
    calendar_bars,
    confusion_heatmap,
    cost_scatter,
    difference_dots,
    interval_dots,
    label_bars,
    learning_curves,
    length_histogram,
    reliability,
    risk_coverage,
    set_title,
    share_bars,
    shortened,
    size_curves,
    threshold_curves,
)

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def names(n):
    return [f"intent_number_{i:02}" for i in range(n)]


def confusion_of(n):
    return pd.DataFrame(np.eye(n, dtype=int) * 9 + 1, index=names(n), columns=names(n))


def estimate(value=0.7, low=0.6, high=0.8):
    return {"value": value, "low": low, "high": high, "n": 90}


def values(container):
    return [patch.get_width() for patch in container]


# The figures that grow with the number of labels.
BY_LABEL = {
    "label_bars": lambda n: label_bars(
        dict(zip(names(n), range(1, n + 1), strict=True)), unit="rows"
    ),
    "confusion_heatmap": lambda n: confusion_heatmap(confusion_of(n)),
    "interval_dots": lambda n: interval_dots(dict.fromkeys(names(n), estimate()), unit="F1"),
    "share_bars": lambda n: share_bars(pd.DataFrame({"a": 1 / n, "b": 0.0}, index=names(n))),
}


@pytest.mark.parametrize("n", [1, 2, 80])
@pytest.mark.parametrize("draw", BY_LABEL.values(), ids=BY_LABEL)
def test_one_label_and_eighty_are_drawn_without_a_warning(draw, n):
    axes = draw(n)
    axes.figure.canvas.draw()
    assert isinstance(axes, Axes)


MATH = [r"$\frac$", r"$$", r"a_$x^2$", "₹5 or $5 & <b>"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: label_bars(dict.fromkeys(MATH, 4), unit=MATH[0]),
        lambda: confusion_heatmap(pd.DataFrame(np.eye(4, dtype=int), index=MATH, columns=MATH)),
        lambda: interval_dots(dict.fromkeys(MATH, estimate()), unit=MATH[0]),
        lambda: share_bars(pd.DataFrame(0.25, index=MATH, columns=MATH)),
        lambda: cost_scatter([cost(name, 1, 1) for name in MATH]),
    ],
)
def test_a_label_is_never_read_as_mathematics(draw):
    axes = draw()
    set_title(axes, f"Most often wrong: {MATH[0]}")
    axes.figure.canvas.draw()
    texts = [text for text in axes.figure.findobj(Text) if "$" in text.get_text()]
    assert len(texts) > 4 and not any(text.get_parse_math() for text in texts)


def test_short_labels_stay_as_they_are():
    assert shortened(["tax", 7, "x" * 32]) == ["tax", "7", "x" * 32]


def test_a_long_label_loses_its_end():
    assert shortened(["abcdefghij" * 10, "tax"], 12) == ["abcdefghija…", "tax"]


def test_labels_that_differ_at_the_end_keep_it():
    one, two = shortened(["the_same_beginning_of_" * 4 + end for end in ("card", "cash")])
    assert one.endswith("_card") and two.endswith("_cash") and "…" in one
    assert {len(one), len(two)} == {32}


def test_labels_that_differ_in_the_middle_only_are_numbered():
    alike = ["a" * 40 + middle + "z" * 40 for middle in "123"]
    shown = shortened([*alike, "tax", alike[0]])
    assert len(set(shown)) == 4 and shown[0] == shown[4] and shown[3] == "tax"
    assert all(
        label.endswith(f"({n})") and len(label) <= 32 for n, label in enumerate(shown[:3], 1)
    )


LONG = [f"{i:02}_" + "what_somebody_wrote_into_a_file_" * 3 for i in range(14)]
WITH_LONG_LABELS = {
    "label_bars": lambda: label_bars(dict.fromkeys(LONG, 14), unit="rows"),
    "confusion_heatmap": lambda: confusion_heatmap(
        pd.DataFrame(np.eye(14, dtype=int) + 1, index=LONG, columns=LONG)
    ),
    "interval_dots": lambda: interval_dots(dict.fromkeys(LONG, estimate()), unit="F1"),
    "share_bars": lambda: share_bars(pd.DataFrame(0.1, index=LONG, columns=LONG[:2])),
    "length_histogram": lambda: length_histogram({name: {"1": 1, "2": 1} for name in LONG[:2]}),
}


@pytest.mark.parametrize("draw", WITH_LONG_LABELS.values(), ids=WITH_LONG_LABELS)
def test_long_labels_leave_most_of_the_figure_to_the_picture(draw):
    axes = draw()
    set_title(axes, f"Most often confused: {LONG[0]} taken for {LONG[1]}")
    axes.figure.canvas.draw()
    width, height = axes.figure.get_size_inches() * axes.figure.dpi
    box, tight = axes.get_window_extent(), axes.figure.get_tightbbox()
    assert box.width > 0.5 * width and box.height > 0.4 * height
    assert tight.width < 1.1 * width / axes.figure.dpi  # the title does not stick out
    ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
    assert all(len(label.get_text()) <= 32 for label in ticks)


def test_bars_are_sorted_with_the_most_frequent_on_top():
    axes = label_bars({"tax": 9, "loan": 30, "goal": 2}, unit="queries")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["goal", "tax", "loan"]
    assert values(axes.containers[0]) == [2, 9, 30]
    assert axes.get_xlabel() == "queries"


def test_lengths_are_shares_so_that_groups_of_any_size_compare():
    axes = length_histogram({"few": {"1": 1, "2": 1}, "many": {"2": 900}})
    heights = [patch.get_xy()[:, 1].max() for patch in axes.patches]
    assert heights == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize(
    "lengths",
    [{"one": {"3": 1}}, {"long": {"1": 1, "5000": 1}}, {name: {"4": 1} for name in "abcdef"}],
)
def test_every_group_of_lengths_is_drawn(lengths):
    axes = length_histogram(lengths)
    axes.figure.canvas.draw()
    assert [patch.get_label() for patch in axes.patches] == list(lengths)


def test_months_are_drawn_in_their_order():
    axes = calendar_bars({"2026-01": 2, "2026-02": 0, "2026-03": 1}, unit="rows")
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "2026-01",
        "2026-02",
        "2026-03",
    ]
    assert [patch.get_height() for patch in axes.patches] == [2, 0, 1]


def test_many_months_leave_room_for_their_names():
    axes = calendar_bars({f"{1990 + n // 12}-{n % 12 + 1:02}": n for n in range(400)}, unit="rows")
    assert len(axes.get_xticklabels()) <= 40


def test_counts_have_no_fractions_on_their_axis():
    axes = label_bars({"tax_planning": 2, "loan": 3}, unit="rules")
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    assert axes.get_yticklabels()[0].get_text() == "tax planning"


def test_estimates_read_from_the_top_and_the_mark_is_named():
    both = {"first": estimate(), "second": estimate(0.5)}
    axes = interval_dots(both, targets={"second": 0.7}, unit="F1")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["second", "first"]
    assert [text.get_text() for text in axes.texts] == [" mark 0.7"]


def test_a_value_beside_its_interval_is_drawn():
    interval_dots({"rare labels": estimate(0.7, 0.72, 0.8)}, unit="F1").figure.canvas.draw()


def test_a_confusion_cell_shows_its_count_and_an_error_its_share():
    table = pd.DataFrame([[3, 1], [0, 0]], index=["tax", "loan"], columns=["tax", "loan"])
    axes = confusion_heatmap(table)
    assert [text.get_text() for text in axes.texts] == ["3", "1"]
    assert axes.images[0].get_array().tolist() == [[0, 0.25], [0, 0]]  # errors only


def test_of_many_labels_the_twenty_with_most_errors_are_shown():
    table = confusion_of(80)
    table.loc["intent_number_77", "intent_number_03"] += 50
    axes = confusion_heatmap(table)
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert len(shown) == 20 and len(axes.texts) > 20
    assert axes.get_xlabel() == "predicted, the 20 of 80 labels with most errors"
    assert shown[0] == "intent number 77"


def test_bins_are_drawn_as_they_are_given_with_their_intervals():
    bins = pd.DataFrame({"confidence": [0.2, 0.7], "accuracy": [0.3, 0.9]})
    axes = reliability({"before": bins, "after": bins.assign(low=0.1, high=0.95)})
    assert [line.get_ydata().tolist() for line in axes.lines[1:]] == [[0.3, 0.9]] * 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["before", "after"]
    (bars,) = axes.collections
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[0.1, 0.95]] * 2


@pytest.mark.parametrize("n", [1, 2, 6])
def test_each_risk_is_drawn_against_its_coverage(n):
    table = pd.DataFrame({"coverage": [0.5, 1.0], "risk": [0.1, 0.3]})
    axes = risk_coverage({f"score {k}": table for k in range(n)})
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0.5, 0.1], [1.0, 0.3]]] * n
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == min(n, 3)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_every_group_of_shares_is_drawn_around_its_tick(n):
    shares = pd.DataFrame({f"g{i}": [2 / 3, 1 / 3] for i in range(n)}, index=["a", "b"])
    axes = share_bars(shares)
    assert [c.get_label() for c in axes.containers] == [f"g{i}" for i in range(n)]
    assert values(axes.containers[-1]) == pytest.approx([1 / 3, 2 / 3])
    middles = [c[0].get_y() + c[0].get_height() / 2 for c in axes.containers]
    assert np.mean(middles) == pytest.approx(0)


def test_drawing_leaves_the_style_of_others_alone():
    before = dict(matplotlib.rcParams)
    label_bars({"tax": 9}, unit="rows")
    assert dict(matplotlib.rcParams) == before


def test_curves_show_both_losses_and_mark_the_best_epoch():
    watched = [
        {"epoch": n, "train_loss": 1 / n, "validation_loss": abs(n - 3)} for n in range(1, 6)
    ]
    axes = learning_curves(watched)
    train, validation, best = axes.get_lines()
    assert train.get_ydata()[-1] == 0.2 and validation.get_ydata()[2] == 0
    assert best.get_xdata()[0] == 3


def test_curves_without_watched_rows_show_training_alone():
    axes = learning_curves([{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.0}])
    assert len(axes.get_lines()) == 1


def test_differences_beyond_the_margin_stand_out():
    found = {"far": {"value": -0.1, "low": -0.15, "high": -0.06}}
    found |= {"near": {"value": -0.04, "low": -0.09, "high": 0.01}}
    axes = difference_dots(found, margin=0.05)
    near, near_dot, far, far_dot = axes.collections[:4]
    assert near.get_colors().tolist() != far.get_colors().tolist()
    assert near_dot.get_paths()[0] != far_dot.get_paths()[0]  # in grey as well
    assert far.get_segments()[0][:, 0] == pytest.approx([-15, -6])
    assert axes.get_xlabel().endswith("; shaded: within 5 points")


def test_a_curve_has_a_tick_for_each_size():
    table = pd.DataFrame({"rows": [120.0, 240.0], "macro_f1": [0.5, 0.6]})
    table = table.assign(macro_f1_low=0.4, macro_f1_high=0.7)
    axes = size_curves({"tfidf": table})
    assert [label.get_text() for label in axes.get_xticklabels()] == ["120", "240"]


def cost(name, ms, megabytes, value=0.84):
    told = estimate(value, value - 0.02, value + 0.02)
    return {"name": name, "accuracy": told, "ms": ms, "bytes": megabytes * 1e6}


COSTS = [cost("fp32", 6.5, 91), cost("int8", 0.9, 23), cost("pruned", 6.6, 91, 0.835)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_each_model_is_a_dot_and_the_last_one_is_marked(n):
    axes = cost_scatter(COSTS[:n])
    dots = [(*dot.get_offsets()[0], dot.get_sizes()[0]) for dot in axes.collections]
    assert [dot[:2] for dot in dots] == [(p["ms"], p["accuracy"]["value"]) for p in COSTS[:n]]
    fills = [dot.get_facecolor()[0].tolist() for dot in axes.collections]
    assert fills[-1] != [1, 1, 1, 1] and fills[:-1] == [[1, 1, 1, 1]] * (n - 1)


def test_the_area_of_a_dot_is_the_size_on_disk():
    large, small, _ = (dot.get_sizes()[0] for dot in cost_scatter(COSTS).collections)
    assert large / small == pytest.approx(91 / 23)


@pytest.mark.parametrize("n", [2, 6, 9])
def test_names_beside_dots_that_lie_close_do_not_cover_each_other(n):
    close = [cost(f"technique {k}", 2 + 0.1 * k, 20, 0.84 + 0.001 * k) for k in range(n)]
    axes = cost_scatter(close)
    axes.figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines to them
    shared = [a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k]]
    assert len(boxes) == n and not any(shared)


def test_thresholds_show_what_is_answered_what_of_it_is_right_and_the_one_that_is_set():
    axes = threshold_curves([0.0, 0.5, 0.9], [1.0, 0.6, 0.0], [0.8, 0.9, None], start=1)
    answered, right, line = axes.lines
    assert answered.get_ydata().tolist() == [1.0, 0.6, 0.0] and line.get_xdata()[0] == 0.5
    assert right.get_ydata()[:2].tolist() == [0.8, 0.9] and np.isnan(right.get_ydata()[2])
