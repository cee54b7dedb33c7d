from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.drift import Batch, drift_between
from nivesh_lib.evaluation.intervals import wilson
from nivesh_lib.models.base import get_model
from nivesh_lib.records.base import write_json
from nivesh_lib.records.release import AnsweredRow
from nivesh_lib.releases.answers import answered_rows
from nivesh_lib.serving import watching
from nivesh_lib.serving.classifier import IntentClassifier
from nivesh_lib.serving.predictor import Predictor
from nivesh_lib.serving.released import Source
from nivesh_lib.serving.watching import DriftWatch, least_accuracy
from tests.releases.world import WORDS, rows

CLASSES = ["loan", "rent", "save", "tax"]


def answered(n: int, seed: int, *, sure: float = 3.0, words: tuple[int, int] = (3, 12)):
    """Return queries, probabilities, the answers as they are served, and as a package has them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 4)) + sure * np.eye(4)[rng.integers(4, size=n)]
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    queries = ["word " * count for count in rng.integers(*words, n)]
    answers, kept = [], []
    for i, row in enumerate(proba):
        best = [(CLASSES[k], float(row[k])) for k in (-row).argsort()[:3]]
        ranked = [{"intent": intent, "confidence": round(p, 4)} for intent, p in best]
        answers.append({**ranked[0], "alternatives": ranked[1:]})
        (intent, p), *others = best
        known = {"words": len(queries[i].split()), "language": "other"}
        kept.append(
            AnsweredRow(
                id=str(i), label=intent, predicted=intent, confidence=p,
                alternatives=dict(others), **known,
            )
        )  # fmt: skip
    return queries, proba, answers, kept


@pytest.mark.parametrize(
    ("now", "drifted"), [({}, False), ({"sure": 0.5}, True), ({"words": (10, 30)}, True)]
)
def test_its_verdict_is_that_of_nivesh_drift(now, drifted):
    queries, proba, _, reference = answered(300, seed=0)
    asked, others, answers, _ = answered(200, seed=1, **now)
    watch = DriftWatch(reference, CLASSES)
    watch.see(asked, answers)
    found = asyncio.run(watch.test())
    command = drift_between(Batch(queries, proba), Batch(asked, others), CLASSES)
    assert found.found == command.found == drifted
    assert {one.aspect for one in found.changes} <= {one.aspect for one in command.changes}
    length = [one.p for side in (found, command) for one in side.changes if one.aspect == "length"]
    assert length[0] == pytest.approx(length[1], abs=0.05)


def test_it_is_due_where_enough_was_answered_since_and_it_is_time():
    *_, reference = answered(50, seed=0)
    queries, _, answers, _ = answered(watching.LEAST, seed=1)
    watch = DriftWatch(reference, CLASSES, every=0.0)
    watch.see(queries[1:], answers[1:])
    assert not watch.due
    watch.see(queries[:1], answers[:1])
    assert watch.due
    asyncio.run(watch.test())
    assert not watch.due  # nothing new
    watch.see(queries[:1], answers[:1])
    watch.every = 60.0
    assert not watch.due


def test_it_keeps_the_last_answers_and_no_query():
    *_, reference = answered(50, seed=0)
    queries, _, answers, _ = answered(2 * watching.WINDOW, seed=1)
    watch = DriftWatch(reference, CLASSES)
    watch.see([f"SECRET {query}" for query in queries], answers)
    assert len(watch._last) == watching.WINDOW and "SECRET" not in repr(watch._last)
    assert watch._last[-1].words == len(queries[-1].split()) + 1


def test_what_is_no_release_is_not_watched(shipped):
    assert DriftWatch.of(IntentClassifier(shipped)) is None


def test_a_package_keeps_the_answers_as_they_are_served():
    data = rows(60, 0, id=[str(i) for i in range(60)], selection="natural")
    three = data.assign(intent=[*WORDS, "other"] * 20)
    model = get_model("tfidf").fit(three["query"], three["intent"])
    proba = model.predict_proba(data["query"].tolist())
    kept = answered_rows(pd.DataFrame(data), model.classes_, proba, None)
    served = Predictor(model).predict(data["query"])
    for row, answer in zip(kept, served, strict=True):
        ranked = {one["intent"]: one["confidence"] for one in (answer, *answer["alternatives"])}
        seen = watching._row(row)
        assert row.predicted == answer["intent"] and seen.probabilities == ranked
        assert (seen.words, seen.language) == (8, "other")


def test_what_a_release_was_shown_to_reach_is_the_low_end_of_its_held_out_rows(tmp_path: Path):
    rows = answered(100, seed=0)[3]
    wrong = [row.model_copy(update={"label": "none"}) for row in rows[:10]]
    kept = [row.as_dict() for row in (*wrong, *rows[10:])]
    write_json(tmp_path / "rows.json", {"rows": kept})
    assert least_accuracy(Source(tmp_path / "model", "1.0.0")) == pytest.approx(wilson(0.9, 100)[0])
    assert least_accuracy(Source(tmp_path / "model")) == 1  # a directory: nothing was shown


OF_TWO_WORKERS = """
import os, re
from nivesh_lib.serving import metrics
ready, done = os.pipe(), os.pipe()
if not os.fork():
    metrics.tell_drift(True, 0.001)
    os.write(ready[1], b".")
    os.read(done[0], 1)
    os._exit(0)
os.read(ready[0], 1)
for found, p in ((False, 0.3), (True, 0.02)):
    metrics.tell_drift(found, p)
    print(*sorted(re.findall(r"^model_drift.*$", metrics.exposition().decode(), re.M)), sep=";")
os.write(done[1], b".")
"""


def test_of_several_workers_all_have_to_see_drift(tmp_path):
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    call = [sys.executable, "-c", OF_TWO_WORKERS]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    found = [re.findall(r"(\w+)\{.*?\} (\S+?)(?:;|$)", line) for line in done.stdout.splitlines()]
    assert [dict(one) for one in found] == [
        {"model_drift": "0.0", "model_drift_p_value": "0.3"},
        {"model_drift": "1.0", "model_drift_p_value": "0.02"},
    ]
