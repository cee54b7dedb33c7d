"""A month of a served model in a minute: its releases, its drift, its corrections.

Traffic is replayed to a real ``nivesh serve`` in a home of its own inside the run's directory, with
a data version, packages and a release log of its own. The code here acts as an operator does:
it releases, starts canaries, and reviews corrections. What became of that is read from the log
of releases, the server's metrics, its file of corrections, and the manifest of the draft.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import monotonic, sleep, time
from typing import Self

import pandas as pd

from nivesh_lib.data.importing import ImportRequest
from nivesh_lib.data.publishing import corrections, publish, publish_import
from nivesh_lib.data.review import write_review
from nivesh_lib.data.schema import OPTIONAL
from nivesh_lib.data.versions import Dataset, DataVersion, load_dataset
from nivesh_lib.errors import DataError, ReleaseError
from nivesh_lib.evaluation.benchmark import model_bytes
from nivesh_lib.evaluation.drift import natural_first
from nivesh_lib.evaluation.findings import rollout as findings
from nivesh_lib.evaluation.intervals import paired_accuracy_difference
from nivesh_lib.evaluation.summary import release_scores
from nivesh_lib.hash_chain import Entry
from nivesh_lib.models.base import load_model
from nivesh_lib.models.directory import model_hash, read_card
from nivesh_lib.models.text.tfidf import TfidfClassifier
from nivesh_lib.notebook.server import LocalServer
from nivesh_lib.notebook.session import Run
from nivesh_lib.notebook.traffic import NUMBER, Traffic
from nivesh_lib.records.estimate import Estimate
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.release import Release
from nivesh_lib.releases import canary
from nivesh_lib.releases.answers import answered_rows
from nivesh_lib.releases.log import read_log, registered_name, state_of
from nivesh_lib.releases.package import Package, algorithm_of
from nivesh_lib.releases.promotion import append, promote
from nivesh_lib.releases.release import unopened
from nivesh_lib.reproducibility import author, code_version
from nivesh_lib.serving.settings import MAX_CHARACTERS
from nivesh_lib.serving.watching import ENOUGH
from nivesh_lib.wording import counted

PRODUCTION, WORSE, BETTER = "1.0.0", "1.0.1", "1.1.0"
_DATA, _MORE, _DRAFT = "0.1.0", "0.2.0", "0.3.0"
_C = 50.0  # surer than notebook 03's, so that fewer answers go to a person
_OVERRIDE = "a replay: no held-out rows are opened for it, so no gate can be reached"
_REVIEWER = "replay (the label that the row has)"
# What must not lead from the home of a replay to the project's own stores and keys.
_OUTSIDE = ("MLFLOW_TRACKING_URI", "NIVESH_PUBLIC_KEY", "NIVESH_SIGNING_KEY")


def mistaken(labels: Sequence[str]) -> dict[str, str]:
    """Return label -> another one, for two thirds of them: their ids are off by one."""
    moved = list(labels)[len(labels) // 3 :]
    return dict(zip(moved, [*moved[1:], *moved[:1]], strict=True))


@dataclass(eq=False, repr=False)
class Month:
    """What was replayed, and what the files and metrics of the server say of it.

    ``lacks`` says why nothing was replayed, where the data are too few.
    """

    run: Run
    home: Path
    name: str
    lacks: str = ""
    log: Sequence[Entry] = ()
    changed: float = 0.0  # when the mix of queries changed, in seconds of the epoch
    traffic: Traffic | None = None
    draft: DataVersion | None = None
    gain: Estimate | None = None  # of the last release, in accuracy

    @classmethod
    def replay(cls, run: Run, data: Dataset, *, seconds: float) -> Self:
        """Replay a month; what is not decided in ``seconds`` is given up.

        Raises
        ------
        NiveshError
            The server does not start.
        """
        home = run.directory.folder("logs", run.step) / "month"
        shutil.rmtree(home, ignore_errors=True)
        month, rows = cls(run, home, registered_name(data.ref)), _Rows.of(data)
        month.lacks = rows.lacks
        with _at(home):
            train = None if rows.lacks else month._data(data.name, rows)
            if train:
                month._replay(train, rows, seconds)
                month.gain = month._gained(rows.fresh)
        return month

    # --- the operator ----------------------------------------------------------------------------

    def _data(self, name: str, rows: _Rows) -> Dataset | None:
        """Publish the rows to learn from, and those to judge releases on, in the home."""
        about, labels, judged = "The rows of a replay", rows.labels, rows.judged
        try:
            publish(rows.training, name, _DATA, description=about, labels=labels,
                    holdout_rows=judged)  # fmt: skip
            publish(rows.learned[1::2], name, _MORE, parent=_DATA, description="More rows")
        except DataError as error:
            self.lacks = f"no month is replayed: {error}"
            return None
        return load_dataset(f"{name}@{_DATA}")

    def _replay(self, train: Dataset, rows: _Rows, seconds: float) -> None:
        self._release(PRODUCTION, train, rows.judged, "the first one")
        other = mistaken(rows.labels)
        why = f"retrained; the ids of {len(other)} of {len(rows.labels)} labels were off by one"
        self._release(WORSE, train, rows.judged, why, other)
        promote(PRODUCTION, "production", name=self.name, override=_OVERRIDE)
        server = LocalServer("production", self.home / "server", **self._settings(seconds))
        self.traffic = Traffic(server, rows.labels, seed=self.run.seed)
        try:
            self._watch(self.traffic, train.name, rows, seconds)
        finally:
            self.traffic.stop()
            server.stop()
            self.log = read_log(self.name)

    def _watch(self, traffic: Traffic, data: str, rows: _Rows, seconds: float) -> None:
        """Let the parts follow each other, each with a share of the time that it may take."""
        until = monotonic() + seconds
        traffic.mix(rows.before)
        traffic.start()
        sleep(0.03 * seconds)
        self._roll_out(WORSE, 0.2 * seconds)
        sleep(0.12 * seconds)
        self.changed = time()
        traffic.mix(rows.before, rows.often)
        _wait(
            lambda: any(on for _, on in findings.verdicts(traffic.polled, self.changed)),
            0.2 * seconds,
        )
        sleep(0.04 * seconds)
        traffic.corrects = False
        traffic.mix(rows.after)  # as before, and of these no release has learned
        if self._add_corrections(data):
            draft = load_dataset(f"{data}@{_DRAFT}")
            why = "trained with the users' corrections and more rows"
            self._release(BETTER, draft, rows.judged, why)
            self._roll_out(BETTER, until - monotonic() - 0.06 * seconds)
        sleep(0.06 * seconds)

    def _settings(self, seconds: float) -> dict[str, str | None]:
        every = max(1, round(seconds / 30))  # a minute of a month is far less than a minute
        return {
            "NIVESH_HOME": str(self.home),
            "NIVESH_SERVE_NAME": self.name,
            "NIVESH_DRIFT_EVERY_S": str(every),
            "NIVESH_MAX_WAIT_MS": "1000",
            **dict.fromkeys(_OUTSIDE),
        }

    def _release(
        self,
        version: str,
        data: Dataset,
        judged: pd.DataFrame,
        why: str,
        labels: dict[str, str] | None = None,
    ) -> None:
        """Train a model and write its package and its line of the log; nothing is registered."""
        package = Package.of(self.name, version)
        model = TfidfClassifier(C=_C)
        model.fit(data.train["query"], data.train["intent"].replace(labels or {}))
        model.save(package.model, data=data.ref)
        proba = model.predict_proba(judged["query"].tolist())
        scores = release_scores(judged, model.classes_[proba.argmax(axis=1)], [])
        kept = {"name": self.name, "version": version, "who": author() or "unknown", "why": why}
        digest = model_hash(read_card(package.model))
        about = unopened(data, None, None) | {key: scores[key] for key in ("metrics", "slices")}
        release = Release(**about | kept | {
            **dict.fromkeys(("digest", "base"), digest),
            **{"kind": "tfidf", "algorithm": algorithm_of(package.model), "temperature": None},
            **{"commit": code_version(), "run": "", "step": "", "parameters": {"C": _C}},
            **{"size_bytes": model_bytes(package.model), "rows": len(judged)},
        })  # fmt: skip
        package.write(release, answered_rows(judged, model.classes_, proba, None), {})
        entry = kept | {"digest": digest, "registered": "", "records": package.records_hash()}
        append("release", entry)

    def _roll_out(self, version: str, seconds: float) -> None:
        """Start a canary and wait for its end; where that does not come in time, abort it."""
        canary.start(version, canary.Settings(), name=self.name, override=_OVERRIDE)
        if not _wait(lambda: not state_of(read_log(self.name)).canary, seconds):
            with contextlib.suppress(ReleaseError):  # it ended just now
                canary.abort(name=self.name, why="not decided in the time of the replay")

    def _add_corrections(self, data: str) -> bool:
        """Decide on corrections as a person does, and publish the draft; False without any."""
        assert self.traffic
        file, review = self.traffic.server.feedback, self.home / "review.csv"
        request = ImportRequest(data, _DRAFT, feedback=file, parent=_MORE)
        try:
            rows, *_ = corrections(request, file, _unsaid)
        except DataError:  # there is nothing to add
            return False
        write_review(review, rows.rename(columns={"intent": "label", "predicted": "suggested"}))
        _decide(review, self.traffic.truths)
        self.draft = publish_import(replace(request, review=review), _unsaid)
        return True

    def _gained(self, rows: pd.DataFrame) -> Estimate | None:
        """Return how much more of the rows the last release answers rightly than the first one."""
        if self.draft is None:
            return None
        texts, labels = rows["query"].tolist(), rows["intent"].to_numpy()
        before, after = (
            load_model(Package.of(self.name, version).model).predict(texts) == labels
            for version in (PRODUCTION, BETTER)
        )
        return paired_accuracy_difference(after, before)

    # --- findings --------------------------------------------------------------------------------

    @cached_property
    def _parts(self) -> dict[str, Finding]:
        """The findings of all marks, from what was written and polled."""
        if self.lacks:
            return findings.left_out(self.lacks)
        assert self.traffic
        traffic, log, draft = self.traffic, self.log, self.draft
        feedback, sent, polled = traffic.server.feedback, traffic.sent, traffic.polled
        lines = feedback.read_text("utf-8").splitlines() if feedback.is_file() else []
        manifest, written = (draft.manifest, None) if draft else ({}, None)
        if draft:
            rows = sum(one["from"] is None for one in manifest["changes"])
            written = (draft.folder / "manifest.json").stat().st_mtime, rows
        made = (
            findings.worse(WORSE, log, sent),
            findings.drift(self.changed, polled, sent),
            findings.corrections(traffic.corrected, [*map(json.loads, lines)], manifest, NUMBER),
            findings.better(BETTER, log, self.gain),
            findings.none_lost(log, sent, polled),
        )
        month = findings.month(made, findings.timeline(log, polled, written))
        return {one.name: one for one in (month, *made)}

    def timeline(self) -> Finding:
        """What happened, in one picture."""
        return self.run.add(self._parts["month"])

    def worse_release(self) -> Finding:
        """Whether a worse release went back by itself."""
        return self.run.add(self._parts["worse_release"])

    def drift(self) -> Finding:
        """Whether another mix of queries was noticed."""
        return self.run.add(self._parts["drift_noticed"])

    def corrections(self) -> Finding:
        """Whether corrections became rows."""
        return self.run.add(self._parts["corrections_used"])

    def better_release(self) -> Finding:
        """Whether a better release came to serve everybody."""
        return self.run.add(self._parts["better_release"])

    def none_lost(self) -> Finding:
        """Whether every request was answered, by a release that it was due to."""
        return self.run.add(self._parts["none_lost"])


@dataclass(frozen=True)
class _Rows:
    """Rows by what they are for: to learn from, to judge releases, and queries of two times.

    The first release learns from ``training``, every other one of the rows to learn from. Rows
    that judge releases are among the queries of both times. Corrections are of the earlier
    ones, so no release has learned from a later one. What was chosen for being hard is no traffic.
    """

    labels: list[str]
    learned: pd.DataFrame
    judged: pd.DataFrame
    before: pd.DataFrame
    after: pd.DataFrame

    @classmethod
    def of(cls, data: Dataset) -> Self:
        """Return the training rows of a version, by fold; no held-out row is among them."""
        kept = ["id", "query", "intent", *(name for name in OPTIONAL if name in data.train)]
        learned = data.train["fold"] < data.n_folds - 3
        labels = [one for one in data.labels if one in set(data.train["intent"][learned][::2])]
        sound = ~learned & data.train["intent"].isin(labels)
        sound &= data.train["query"].str.len() < MAX_CHARACTERS - 40  # room for a number
        if "selection" in data.train:
            sound &= natural_first(data.train["selection"].to_numpy())[0]
        others = data.train[sound]
        judged, more, after = (others[others["fold"] == data.n_folds - n][kept] for n in (3, 2, 1))
        # So few rows, asked again and again, would differ from any others: some judge releases too.
        return cls(
            labels,
            data.train[learned][kept],
            judged,
            *(pd.concat([judged, one]) for one in (more, after)),
        )

    @property
    def training(self) -> pd.DataFrame:
        """The rows that the first release learns from."""
        return self.learned[::2]

    @property
    def fresh(self) -> pd.DataFrame:
        """Queries that no release learns from or is judged on, and that no user corrects."""
        return self.after[len(self.judged) :]

    @property
    def lacks(self) -> str:
        """Why there are too few, or an empty string."""
        n = len(self.judged)
        least = min(n, len(self.before) - n, len(self.after) - n)
        if len(self.labels) > 1 and least >= ENOUGH:
            return ""
        return (
            f"no month is replayed: {counted(least, 'row')} in the smallest of the folds that no "
            f"model learns from, and {counted(len(self.labels), 'label')}; {ENOUGH} rows and two "
            "labels are needed"
        )

    @property
    def often(self) -> list[str]:
        """The labels that callers come to ask for more than before, one in five."""
        return [*self.before["intent"].value_counts().index[: max(1, len(self.labels) // 5)]]


@contextlib.contextmanager
def _at(home: Path) -> Iterator[None]:
    """Let this process work in another home for a while."""
    before = {name: os.environ.pop(name, None) for name in ("NIVESH_HOME", *_OUTSIDE)}
    os.environ["NIVESH_HOME"] = str(home)
    try:
        yield
    finally:
        del os.environ["NIVESH_HOME"]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _wait(condition: Callable[[], object], seconds: float) -> bool:
    """Wait until a condition holds, for so long at most, and return whether it does."""
    until = monotonic() + seconds
    while monotonic() < until:
        if condition():
            return True
        sleep(0.1)
    return False


def _decide(review: Path, truths: dict[str, str]) -> None:
    """Fill in a review of corrections: the label is the one that the row has."""
    lines = pd.read_csv(review, dtype="str", keep_default_na=False, encoding="utf-8-sig")
    truth = lines["id"].map(truths)
    same = truth == lines["label"]
    lines["decision"] = same.map({True: "keep", False: "relabel"})
    lines["new_label"] = truth.where(~same, "")
    lines.assign(reviewer=_REVIEWER).to_csv(review, index=False)


def _unsaid(line: str) -> None:
    """Take what is said of lines that are left out; the finding counts what was added."""
