"""How `make bench-peers` prints what it found, and published figures to hold it against."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

CASANUEVA = "Casanueva et al. 2020, Efficient Intent Detection with Dual Sentence Encoders"
VULIC = "Vulić et al. 2021, ConvFiT: Conversational Fine-Tuning of Pretrained Language Models"
UNSOURCED = "no certain source, a rough mark"
# Accuracy in percent on banking77's official test set, after training on all of its training set.
PUBLISHED = (
    ("TF-IDF + SVM", "90-91", UNSOURCED),
    ("BiLSTM", "88.6", UNSOURCED),
    ("DistilBERT", "92.5", UNSOURCED),
    ("BERT-large, fine-tuned", "93.7", CASANUEVA),
    ("USE + ConveRT", "93.4", CASANUEVA),
    ("ConvFiT", "94.2", VULIC),
)

Row = Mapping[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return lines of columns: the first to the left, the others to the right."""
    widths = [max(len(line[n]) for line in (header, *rows)) for n in range(len(header))]
    lines = []
    for line in (header, *rows):
        first, *others = zip(line, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def megabytes(size: float) -> str:
    return f"{size / 1e6:.1f}" if size < 1e7 else f"{size / 1e6:.0f}"


def quality(rows: Sequence[Row]) -> str:
    header = ["candidate", "accuracy", "macro-F1", "n", "fit s", "s/epoch", "epochs", "disk MB"]
    return table(
        [*header, "peak MB"],
        [
            [
                row["candidate"],
                interval(row["accuracy"]),
                interval(row["macro_f1"]),
                f"{row['accuracy']['n']}",
                seconds(row["fit_seconds"]),
                seconds(row["epoch_seconds"]),
                f"{row['epochs']:g}" if row["epochs"] else "-",
                megabytes(row["size_bytes"]),
                megabytes(row["peak_bytes"]),
            ]
            for row in rows
        ],
    )


def shots(rows: Sequence[Row]) -> str:
    def spread(values: Sequence[float]) -> str:
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.mean(values):.3f} ± {deviation:.3f}"

    return table(
        ["candidate", "accuracy", "macro-F1", "draws", "n", "fit s"],
        [
            [
                row["candidate"],
                spread(row["accuracies"]),
                spread(row["macro_f1s"]),
                f"{len(row['accuracies'])}",
                f"{row['n']}",
                seconds(row["fit_seconds"]),
            ]
            for row in rows
        ],
    )


def epoch_times(rounds: Mapping[str, Sequence[float]], ours: str) -> str:
    """Return the table of one epoch's time, with ratios to ``ours``; the worst one is a round's."""
    base = rounds.get(ours)
    rows = []
    for name, values in rounds.items():
        ratio = worst = "-"
        if base:
            ratio = f"{statistics.median(values) / statistics.median(base):.2f}"
            worst = f"{min(a / b for a, b in zip(values, base, strict=True)):.2f}"
        spread = f"{min(values):.1f} to {max(values):.1f}"
        rows.append([name, f"{statistics.median(values):.1f}", spread, ratio, worst])
    return table(["candidate", "median s", "range", f"x {ours}", "worst round"], rows)


def published() -> str:
    width = max(len(name) for name, _, _ in PUBLISHED)
    lines = [f"  {name:<{width}}  {figure:>5}  {source}" for name, figure, source in PUBLISHED]
    return "\n".join(["Published accuracy on banking77's official test set, %:", *lines])
