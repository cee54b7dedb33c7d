"""A small project in git: a dataset, objectives, and complete runs of a bag of words to release."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd

from nivesh_lib.data.publishing import publish
from nivesh_lib.data.versions import load_dataset
from nivesh_lib.evaluation.resampling.cross_validation import cross_validate
from nivesh_lib.models.base import get_model
from nivesh_lib.records.base import write_json
from nivesh_lib.reproducibility import git_state
from nivesh_lib.runs.layout import RunDirectory
from tests.runs.examples import contents

WORDS = {"tax": "save refund 80c deduction return", "rent": "flat pay landlord lease deposit"}
OBJECTIVES = """
[intent_classifier]
accuracy_target = 0.99
latency_target_ms = 10000
min_confidence = 0.7

[intent_classifier.staging]
accuracy = 0.5
size_mb = 50
accuracy_loss = 0.3

[intent_classifier.production]
accuracy_loss = 0.3
hours_in_staging = 24
"""
STEP = "03_tfidf"


def rows(n: int, seed: int, **columns) -> pd.DataFrame:
    """Return texts of two intents that a bag of words tells apart, none near another."""
    rng = np.random.default_rng(seed)
    intents = [list(WORDS)[i % 2] for i in range(n)]
    texts = []
    for intent in intents:
        others = (f"w{k}" for k in rng.integers(9999, size=6))
        texts.append(" ".join([*rng.choice(WORDS[intent].split(), 2), *others]))
    return pd.DataFrame({"query": texts, "intent": intents, **columns})


def git(home: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Asha", "-c", "user.email=asha@example.com")
    done = subprocess.run(["git", *who, *arguments], cwd=home, capture_output=True, check=True)
    return done.stdout.decode().strip()


def make_world(home: Path, objectives: str = OBJECTIVES) -> None:
    """Make intents@1.0.0 with 200 rows, 40 of them held out, and commit everything."""
    publish(rows(200, 0, language=["en", "hi"] * 100), "intents", "1.0.0", description="first")
    (home / "data" / "objectives.toml").write_text(objectives)
    (home / ".gitignore").write_text("reports/\nmlruns/\n")
    git(home, "init", "-q", "-b", "main")
    git(home, "config", "user.name", "Asha")
    commit(home)


def commit(home: Path) -> str:
    git(home, "add", "-A")
    git(home, "commit", "-q", "-m", "a commit", "--allow-empty")
    git_state.cache_clear()
    return git(home, "rev-parse", "HEAD")


def make_run(
    name: str = "20260101-000000", *, data: str = "intents@1.0.0", **params
) -> RunDirectory:
    """Leave a complete run of one bag of words, with results, answers out of fold and model."""
    from nivesh_lib.paths import latest_run, runs_dir

    run = RunDirectory(runs_dir() / name)
    dataset = load_dataset(data)
    model = get_model("tfidf", **{"C": 10.0, **params})
    cv = cross_validate(model, dataset.train, labels=dataset.labels)
    model.fit(dataset.train["query"], dataset.train["intent"])
    model.save(run.model(STEP), data=data)
    run.path.joinpath("oof").mkdir(parents=True, exist_ok=True)
    cv.oof.to_parquet(run.path / "oof" / f"{STEP}.parquet")
    found = contents("tfidf", 0.8, findings=[], step=STEP, dataset=data)
    write_json(run.result_file(STEP), found)
    record = {
        "run": name, "status": "done", "profile": "default", "started": "2026-01-01T00:00:00",
        "dataset": {"ref": data, "sha256": dataset.version.sha256, "rows": 200},
        "steps": {STEP: {"status": "done", "key": "k", "parameters": params, "cells": 3}},
        "git": {"commit": git_state()["commit"], "dirty": False}, "environment": {},
        "seconds": 1.0, "complete": True,
    }  # fmt: skip
    run.path.joinpath("run.json").write_text(json.dumps(record))
    latest_run().unlink(missing_ok=True)
    latest_run().symlink_to(run.path)
    return run
