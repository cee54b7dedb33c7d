"""What a notebook records of two models, made by the evaluation itself on small data."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier

from nivesh_lib.data.schema import Issue
from nivesh_lib.evaluation.benchmark import Speed
from nivesh_lib.evaluation.comparison import compare
from nivesh_lib.evaluation.compression.gate import decide
from nivesh_lib.evaluation.confidence.calibration import (
    calibration_table,
    cross_fitted_temperature,
)
from nivesh_lib.evaluation.errors import flips, overlapping_intents
from nivesh_lib.evaluation.resampling.cross_validation import predicted_labels, probabilities
from nivesh_lib.evaluation.resampling.learning_curve import learning_curve
from nivesh_lib.evaluation.resampling.repeated import fold_table, repeated_cross_validate
from nivesh_lib.evaluation.resampling.temporal import accuracy_over_time, temporal_scores
from nivesh_lib.evaluation.robustness.behaviour import behaviour
from nivesh_lib.evaluation.robustness.cases import INTRODUCED, POLITE
from nivesh_lib.evaluation.robustness.fairness import (
    accuracy_gaps,
    flip_rates,
    gap_table,
    intersectional_scores,
    segment_scores,
)
from nivesh_lib.evaluation.scores import masks_by_column
from nivesh_lib.evaluation.summary import plain_rows
from nivesh_lib.records.base import plain

LABELS = ["loan", "save", "tax"]


def table_of(frame, rng, accuracy):
    right = rng.random(len(frame)) < accuracy
    shift = rng.integers(1, 3, len(frame))
    answer = (frame["intent"].map(LABELS.index) + np.where(right, 0, shift)) % 3
    sure = rng.uniform(0.9, 0.99, len(frame))
    proba = np.tile(((1 - sure) / 2)[:, None], 3)
    proba[np.arange(len(frame)), answer] = sure
    return pd.concat([frame[["id", "fold"]], pd.DataFrame(proba, columns=LABELS)], axis=1)


@pytest.fixture(scope="module")
def record():
    """Of the two models "good" is right in 90 % and too sure."""
    rng = np.random.default_rng(0)
    n = 300
    frame = pd.DataFrame(
        {
            "id": [f"q{i}" for i in range(n)],
            "fold": np.arange(n) % 5,
            "intent": rng.choice(LABELS, n),
            "language": rng.choice(["en", "hi"], n),
            "income_segment": rng.choice(["low", "middle", "high"], n),
            "query": "a text",
            "created_at": pd.date_range("2026-01-01", periods=n).strftime("%Y-%m-%d"),
        }
    )
    oof = {name: table_of(frame, rng, share) for name, share in (("good", 0.9), ("weak", 0.6))}
    predicted = {name: predicted_labels(oof[name]) for name in oof}
    asked = [table_of(frame, rng, 0.85).assign(probe=p) for p in (INTRODUCED, POLITE)]
    person = table_of(frame, rng, 0.85).assign(probe="person: another name")
    probes = pd.concat([*asked, person], ignore_index=True)
    masks = masks_by_column(frame, ["language", "income_segment"])
    probabilities_of = {name: probabilities(one) for name, one in oof.items()}
    calibrations = {
        name: cross_fitted_temperature(proba, frame["intent"], frame["fold"].to_numpy(), n_boot=50)
        for name, proba in probabilities_of.items()
    }
    calibration = calibration_table(
        calibrations, probabilities_of, frame["intent"], rows=np.ones(n, dtype=bool), bar=0.7
    )
    pairs = overlapping_intents(frame["intent"], predicted["weak"], LABELS)
    guess = DummyClassifier(strategy="most_frequent")
    again = repeated_cross_validate(guess, frame, labels=LABELS, repeats=2)
    curve = learning_curve(guess, frame, n_boot=20)
    later = temporal_scores(guess, frame, n_boot=20)
    periods = accuracy_over_time(frame, predicted["good"] == frame["intent"])
    recorded = {
        "model": "good",
        "comparison": compare(frame["intent"], predicted, n_boot=50).as_dict(),
        "folds": plain_rows(fold_table(oof, frame)),
        "repeats": [{"model": "weak", **again.intervals["macro_f1"].as_dict()}],
        "learning": curve.table.assign(model="weak").to_dict("records"),
        "readings": [{"model": "weak", "reading": curve.reading}],
        "over_time": periods.to_dict("records"),
        "temporal": later.assign(model="weak").to_dict("records"),
        "calibration": plain_rows(calibration),
        "routing": [
            {"score": "confidence", "recall_95": 0.4, "recall_95_low": 0.3, "recall_95_high": 0.5},
            {"score": "certainty", "recall_95": 0.7, "recall_95_low": 0.6, "recall_95_high": 0.8}
            | {"threshold": 0.45, "acceptance": 0.92, "recall": 0.75, "cost": 0.17},
        ],
        "segments": segment_scores(frame, oof["good"], masks, n_boot=50).to_dict("records"),
        "gaps": gap_table(accuracy_gaps(predicted["good"] == frame["intent"], masks)).to_dict(
            "records"
        ),
        "crossed": intersectional_scores(
            frame, oof["good"], ["language", "income_segment"]
        ).to_dict("records"),
        "flips": flip_rates(oof["good"], probes).to_dict("records"),
        "behaviour": [
            {"model": name, **row}
            for name, one in oof.items()
            for row in behaviour(frame, one, probes).to_dict("records")
        ],
        "overlaps": pairs.to_dict("records"),
        "flipped": flips(frame, oof["weak"], oof["good"]).as_dict() | {"before": "weak"},
        "leaks": [asdict(Issue("split", "3 rows are on both sides."))],
        "help": [{"group": "language=hi", "rows": 150, "share": 0.6, "gain": 0.03}],
    }
    return plain(recorded)


@pytest.fixture(scope="module")
def optimised():
    """What a notebook records of two optimised models, the second much worse."""
    rng, n = np.random.default_rng(0), 300
    frame = pd.DataFrame({"id": [f"q{i}" for i in range(n)], "fold": np.arange(n) % 5})
    frame["intent"] = rng.choice(LABELS, n)
    fp32, bad = (table_of(frame, rng, share) for share in (0.9, 0.5))
    judgements = [
        decide(name, t, fp32, frame, n_boot=50) for name, t in (("int8", fp32), ("x", bad))
    ]
    speeds = {
        name: Speed(1, 1, ms, 2 * ms, 3 * ms, 100, 200, "Some CPU", ("avx2",))
        for name, ms in (("fp32", 6.0), ("int8", 1.0))
    }
    recorded = {
        "gates": [judged.as_dict() for judged in judgements],
        "race": [{"model": name, **speed.as_dict()} for name, speed in speeds.items()],
        "recommendation": {"model": "int8", "sentence": "Serve the int8 model."},
    }
    return plain(recorded)
