"""Simulated batches of the shipped training rows: how often drift is told, without and with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from nivesh_lib.data.versions import load_dataset
from nivesh_lib.evaluation.drift import Batch, drift_between
from nivesh_lib.evaluation.resampling.cross_validation import cross_validate, probabilities
from nivesh_lib.models.text.tfidf import TfidfClassifier

DATASET = "intents@1.1.0"
SIZES = (20, 50, 100, 200, 400)
EVIDENTLY_SIZES = (50, 100, 200)  # a batch takes it a hundred times as long as it takes us
BEGIN, END = (
    "<!-- drift:start (made by tests/evaluation/test_drift_rates.py) -->",
    "<!-- drift:end -->",
)
POWER = {"a fifth moved to one label": "one_intent", "Hinglish, 15 to 40 %": "hinglish"}


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Natural training rows and their probabilities out of fold."""

    frame: pd.DataFrame
    proba: pd.DataFrame

    def batch(self, rows: np.ndarray, labels: bool) -> Batch:
        texts, intents, languages = (
            self.frame[name].to_numpy(dtype=object)[rows].tolist()
            for name in ("query", "intent", "language")
        )
        return Batch(texts, self.proba.to_numpy()[rows], intents if labels else None, languages)

    def rate(self, split: str, n: int, times: int, *, labels: bool = False) -> float:
        """Return the share of simulated batches of ``n`` rows in which drift is told."""
        rng, told = np.random.default_rng(n), 0
        for seed in range(times):
            before, now = (self.batch(side, labels) for side in getattr(self, split)(rng, n))
            told += drift_between(before, now, list(self.proba), seed=seed).found
        return told / times

    def evidently(self, n: int, times: int) -> float:
        """Return how often Evidently's preset, at its defaults, finds a column that drifted.

        Its columns are what our test reads.
        """
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        numbers = self.proba.assign(
            confidence=self.proba.max(axis=1), words=self.frame["query"].str.split().str.len()
        )
        kinds = pd.DataFrame(
            {"predicted": self.proba.idxmax(axis=1), "language": self.frame["language"]}
        )
        definition = DataDefinition(
            numerical_columns=list(numbers), categorical_columns=list(kinds)
        )
        frame, rng, told = pd.concat([numbers, kinds], axis=1), np.random.default_rng(n), 0
        for _ in range(times):
            before, now = (
                Dataset.from_pandas(frame.iloc[side], data_definition=definition)
                for side in self.same(rng, n)
            )
            metrics = Report([DataDriftPreset()]).run(now, before).dict()["metrics"]
            told += metrics[0]["value"]["count"] > 0
        return told / times

    def table(self, times: int, evidently_times: int) -> str:
        """Return the table of false alarms and power, as Markdown."""
        from joblib import Parallel, delayed

        names = ["rows", "false alarms", "with true labels", *POWER, "Evidently, false alarms"]
        cells = {(n, 1): delayed(self.rate)("same", n, times) for n in SIZES}
        cells[100, 2] = delayed(self.rate)("same", 100, times, labels=True)
        for column, split in enumerate(POWER.values(), start=3):
            cells[100, column] = delayed(self.rate)(split, 100, times)
        cells |= {(n, 5): delayed(self.evidently)(n, evidently_times) for n in EVIDENTLY_SIZES}
        found = dict(zip(cells, Parallel(n_jobs=2)(cells.values()), strict=True))
        lines = [names, ["---:"] * len(names)]
        for n in SIZES:
            rates = [found.get((n, column)) for column in range(1, len(names))]
            lines.append([str(n), *("" if one is None else f"{100 * one:.1f} %" for one in rates)])
        rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"{times:,} batches a cell, {evidently_times} of Evidently's.\n\n{rows}\n"

    def same(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """No drift: any rows."""
        order = rng.permutation(len(self.frame))
        return order[n:], order[:n]

    def one_intent(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """A fifth of the batch is moved to one label, which is drawn."""
        labels = self.frame["intent"].to_numpy()
        own = np.flatnonzero(labels == rng.choice(np.unique(labels)))
        moved = rng.choice(own, n // 5, replace=n // 5 > len(own))
        rest = np.setdiff1d(np.arange(len(labels)), moved)
        now = np.concatenate([moved, rng.choice(rest, n - len(moved), replace=False)])
        return np.setdiff1d(np.arange(len(labels)), now), now

    def hinglish(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Hinglish is 15 % of the rows from before and 40 % of the batch."""
        is_hindi = (self.frame["language"] == "hinglish").to_numpy()
        hindi, others = (rng.permutation(np.flatnonzero(is_hindi == one)) for one in (True, False))
        k = round(0.4 * n)
        left, rest = hindi[k:], others[n - k :]
        size = min(len(left), round(len(rest) * 15 / 85))
        before = np.concatenate([left[:size], rest[: round(size * 85 / 15)]])
        return before, np.concatenate([hindi[:k], others[: n - k]])


def shipped_rows() -> Rows:
    """Return the shipped rows that nobody chose for being hard, answered out of fold by TF-IDF."""
    train = load_dataset(DATASET).train
    oof = cross_validate(TfidfClassifier(), train, labels=sorted(set(train["intent"]))).oof
    natural = train["selection"] == "natural"
    return Rows(
        train[natural].reset_index(drop=True), probabilities(oof)[natural].reset_index(drop=True)
    )


def put_into(page: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between the markers of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(f"{begin}\n")
    page.write_text(f"{before}{begin}\n{text}{end}{rest.partition(end)[2]}", encoding="utf-8")


def table_of(page: Path, begin: str = BEGIN, end: str = END) -> list[dict[str, str]]:
    """Return the rows between the markers of a page, by the names of the columns."""
    inside = page.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in inside.splitlines()
        if line[:1] == "|"
    ]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
