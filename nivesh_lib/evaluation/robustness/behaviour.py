"""What a model should and should not do when a text changes (Ribeiro et al. 2020, CheckList).

Invariance: a change that keeps what is asked must keep the answer. Direction: a change that says
more plainly what is or is not wanted must not move a probability the wrong way. Both are read from
the recorded answers to probes; nothing is predicted here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from nivesh_lib.evaluation.resampling.cross_validation import predicted_labels, probabilities
from nivesh_lib.evaluation.robustness.cases import (
    CASUAL,
    EN,
    HINGLISH,
    INTRODUCED,
    OWN_WISH,
    POLITE,
    RULED_OUT,
    TAKEN_BACK,
    VIEW,
    answers,
    answers_by_target,
)
from nivesh_lib.evaluation.robustness.perturbations import VIEWS
from nivesh_lib.evaluation.scores import share_of, wilson
from nivesh_lib.records.estimate import Estimate

TOLERANCE = 0.1  # how far a probability may move the wrong way, as in CheckList's own tests

_INVARIANT = {
    **{name: f"{VIEW}{name}" for name in VIEWS},
    "politeness": POLITE,
    "casual Hinglish": CASUAL,
    "introduces themselves": INTRODUCED,
}


def behaviour(
    frame: pd.DataFrame,
    oof: pd.DataFrame,
    probes: pd.DataFrame,
    *,
    paraphrases: pd.DataFrame | None = None,
    tolerance: float = TOLERANCE,
) -> pd.DataFrame:
    """Return how often a model fails each test: kind, test, rows, failed, low, high.

    Parameters
    ----------
    frame
        Rows with id and intent.
    oof, probes
        Recorded by the same models, as `cross_validate` returns them.
    paraphrases
        Authored pairs with id and intent; rows of their tests are pairs.
    tolerance
        How far a probability may move the wrong way.
    """
    found = [
        *_invariance(oof, probes),
        *_direction(frame, oof, probes, tolerance=tolerance),
        *([] if paraphrases is None else _paraphrase(paraphrases, probes)),
    ]
    rows = [(kind, test, e.n, e.value, e.low, e.high) for kind, test, e in found if e.n]
    return pd.DataFrame(rows, columns=["kind", "test", "rows", "failed", "low", "high"])


def side_by_side(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the failure rates of several models as text, one column each, in per cent.

    Parameters
    ----------
    tables
        Model -> table, as `behaviour` returns it.
    """
    shown = [
        table.assign(
            model=name,
            told=[
                f"{100 * failed:.0f} [{100 * low:.0f}, {100 * high:.0f}]"
                for failed, low, high in table[["failed", "low", "high"]].to_numpy(dtype=float)
            ],
        )
        for name, table in tables.items()
    ]
    wide = pd.concat(shown).pivot(index=["kind", "test"], columns="model", values="told")
    order = pd.concat(shown)[["kind", "test"]].drop_duplicates()
    return wide.loc[pd.MultiIndex.from_frame(order), list(tables)].fillna("")


_Found = list[tuple[str, str, Estimate]]


def _failed(mask: np.ndarray) -> Estimate:
    return share_of(mask) if len(mask) else Estimate(0.0, 0.0, 1.0, 0)


def _invariance(oof: pd.DataFrame, probes: pd.DataFrame) -> _Found:
    return [
        ("invariance", test, _failed(changed(oof, answers(probes, probe))))
        for test, probe in _INVARIANT.items()
    ]


def changed(before: pd.DataFrame, after: pd.DataFrame) -> np.ndarray:
    """Return for each row of ``after`` whether ``before`` has another answer to its id."""
    answer = dict(zip(before["id"], predicted_labels(before), strict=True))
    return predicted_labels(after) != after["id"].map(answer).to_numpy()


def _direction(
    frame: pd.DataFrame, oof: pd.DataFrame, probes: pd.DataFrame, *, tolerance: float
) -> _Found:
    intent = dict(zip(frame["id"], frame["intent"], strict=True))
    own = answers(probes, OWN_WISH)
    own = own.assign(target=own["id"].map(intent))
    back = answers_by_target(probes, TAKEN_BACK)
    withdrawn = back.assign(target=back["id"].map(intent))
    ruled_out = answers_by_target(probes, RULED_OUT)
    tests: list[tuple[str, pd.DataFrame, Callable[[np.ndarray], np.ndarray]]] = [
        ("own wish added: its probability falls", own, lambda move: move < -tolerance),
        ("taken back: the old wish gains", withdrawn, lambda move: move > tolerance),
        ("taken back: the new wish loses", back, lambda move: move < -tolerance),
        ("ruled out: what is not wanted gains", ruled_out, lambda move: move > tolerance),
    ]
    return [("direction", test, _failed(wrong(_moves(oof, asked)))) for test, asked, wrong in tests]


def _moves(oof: pd.DataFrame, asked: pd.DataFrame) -> np.ndarray:
    """Return how far the probability of each row's ``target`` moved from the text as written."""
    labels = list(probabilities(oof))
    before = oof.set_index("id").loc[asked["id"], labels].to_numpy()
    moved = asked[labels].to_numpy() - before
    return np.asarray(moved[np.arange(len(asked)), [labels.index(t) for t in asked["target"]]])


def _paraphrase(paraphrases: pd.DataFrame, probes: pd.DataFrame) -> _Found:
    """Return wrong and differing answers; the unit is the pair, however many models answer it.

    Each pair counts with the share of models that fail it. Such a share varies no more than a
    single answer would, so that Wilson's interval over pairs is wide enough.
    """
    en, hinglish = (answers(probes, name).sort_values(["fold", "id"]) for name in (EN, HINGLISH))
    intent = dict(zip(paraphrases["id"], paraphrases["intent"], strict=True))
    true = en["id"].map(intent).to_numpy()
    told, said = predicted_labels(en), predicted_labels(hinglish)
    masks = {
        ("invariance", "paraphrase: the other language is answered otherwise"): told != said,
        ("accuracy", "paraphrase: English answered wrong"): told != true,
        ("accuracy", "paraphrase: Hinglish answered wrong"): said != true,
    }
    n = int(en["id"].nunique())
    if not n:
        return []
    shares = {key: float(np.mean(mask)) for key, mask in masks.items()}
    return [(*key, Estimate(share, *wilson(share, n), n)) for key, share in shares.items()]
