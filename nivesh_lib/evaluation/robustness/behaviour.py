"""Behavioural tests (Ribeiro et al. 2020, CheckList), from recorded answers to test cases.

Invariance: a change that keeps the intent must keep the predicted label. Directional expectation:
a sentence that asks for or excludes an intent must not move its probability the wrong way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.intervals import share_of
from nivesh_lib.evaluation.resampling.cross_validation import predicted_labels, probabilities
from nivesh_lib.evaluation.robustness.cases import (
    CASUAL,
    EN,
    HINGLISH,
    INTRODUCED,
    OWN_WISH,
    PERTURBATION,
    POLITE,
    RULED_OUT,
    TAKEN_BACK,
    answers_by_target,
    answers_to,
)
from nivesh_lib.evaluation.robustness.perturbations import PERTURBATIONS
from nivesh_lib.records.estimate import Estimate

TOLERANCE = 0.1  # how far a probability may move the wrong way, as in CheckList's own tests

_INVARIANT = {
    **{name: f"{PERTURBATION}{name}" for name in PERTURBATIONS},
    "politeness": POLITE,
    "casual Hinglish": CASUAL,
    "introduces themselves": INTRODUCED,
}


def behaviour(
    frame: pd.DataFrame,
    oof: pd.DataFrame,
    case_answers: pd.DataFrame,
    *,
    paraphrases: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return how often a model fails each test: kind, test, rows, failed, low, high.

    Parameters
    ----------
    frame
        Rows with id and intent.
    oof, case_answers
        Recorded by the same models, as `cross_validate` returns them.
    paraphrases
        Authored pairs with id and intent; rows of their tests are pairs.
    """
    found = [
        *_invariance(oof, case_answers),
        *_direction(frame, oof, case_answers),
        *([] if paraphrases is None else _paraphrase(paraphrases, case_answers)),
    ]
    rows = [(kind, test, e.n, e.value, e.low, e.high) for kind, test, e in found if e.n]
    return pd.DataFrame(rows, columns=["kind", "test", "rows", "failed", "low", "high"])


_Found = list[tuple[str, str, Estimate]]


def _failed(mask: np.ndarray, n: int | None = None) -> Estimate:
    return share_of(mask, n) if len(mask) else Estimate(0.0, 0.0, 1.0, 0)


def _invariance(oof: pd.DataFrame, case_answers: pd.DataFrame) -> _Found:
    return [
        ("invariance", test, _failed(changed(oof, answers_to(case_answers, name))))
        for test, name in _INVARIANT.items()
    ]


def changed(before: pd.DataFrame, after: pd.DataFrame) -> np.ndarray:
    """Return for each row of ``after`` whether ``before`` has another label for its id."""
    answer = dict(zip(before["id"], predicted_labels(before), strict=True))
    return predicted_labels(after) != after["id"].map(answer).to_numpy()


def _direction(frame: pd.DataFrame, oof: pd.DataFrame, case_answers: pd.DataFrame) -> _Found:
    intent = dict(zip(frame["id"], frame["intent"], strict=True))
    own = answers_to(case_answers, OWN_WISH)
    own = own.assign(target=own["id"].map(intent))
    back = answers_by_target(case_answers, TAKEN_BACK)
    withdrawn = back.assign(target=back["id"].map(intent))
    ruled_out = answers_by_target(case_answers, RULED_OUT)
    tests: list[tuple[str, pd.DataFrame, Callable[[np.ndarray], np.ndarray]]] = [
        ("a stated wish gets less likely", own, lambda move: move < -TOLERANCE),
        ("a wish taken back gets likelier", withdrawn, lambda move: move > TOLERANCE),
        ("a new wish gets less likely", back, lambda move: move < -TOLERANCE),
        ("a topic ruled out gets likelier", ruled_out, lambda move: move > TOLERANCE),
    ]
    return [("direction", test, _failed(wrong(_moves(oof, asked)))) for test, asked, wrong in tests]


def _moves(oof: pd.DataFrame, asked: pd.DataFrame) -> np.ndarray:
    """Return the change in probability of each row's ``target`` from the unchanged text."""
    labels = list(probabilities(oof))
    before = oof.set_index("id").loc[asked["id"], labels].to_numpy()
    moved = asked[labels].to_numpy() - before
    return np.asarray(moved[np.arange(len(asked)), [labels.index(t) for t in asked["target"]]])


def _paraphrase(paraphrases: pd.DataFrame, case_answers: pd.DataFrame) -> _Found:
    """Return the shares of wrong and of differing answers; the unit is the pair of paraphrases.

    Each pair counts with the share of models that fail it. The variance of such a share is at
    most that of a single answer, so Wilson's interval over pairs is conservative.
    """
    en, hinglish = (
        answers_to(case_answers, name).sort_values(["fold", "id"]) for name in (EN, HINGLISH)
    )
    intent = dict(zip(paraphrases["id"], paraphrases["intent"], strict=True))
    true = en["id"].map(intent).to_numpy()
    in_english, in_hinglish = predicted_labels(en), predicted_labels(hinglish)
    tests = [
        ("invariance", "the language changes the answer", in_english != in_hinglish),
        ("accuracy", "English pair answered wrong", in_english != true),
        ("accuracy", "Hinglish pair answered wrong", in_hinglish != true),
    ]
    n = int(en["id"].nunique())
    return [(kind, test, _failed(mask, n)) for kind, test, mask in tests]
