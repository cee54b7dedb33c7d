"""A search for hyper-parameters on folds, with Optuna: pruned, resumable, within some minutes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from nivesh_lib.evaluation.intervals import FoldInterval, fold_interval
from nivesh_lib.evaluation.scores import headline_mask, point_scores
from nivesh_lib.files import locked_folder
from nivesh_lib.records.results import HEADLINE

# Kind of model -> what is searched, from and to; whole numbers are counted, others drawn on a
# logarithmic scale unless they begin at zero.
SPACES: dict[str, dict[str, tuple[float, float]]] = {
    "tfidf": {"C": (3.0, 300.0), "word_ngram_max": (1, 3), "char_ngram_max": (3, 6)},
    "static": {"C": (3.0, 300.0), "label_smoothing": (0.0, 0.3)},
    "embedding": {"C": (0.3, 100.0)},
    "transformer": {
        "learning_rate": (1e-4, 1e-3),
        "layer_decay": (0.8, 1.0),
        "label_smoothing": (0.0, 0.2),
    },
}


@dataclass(frozen=True)
class Trial:
    """One setting: its number, what was searched, macro-F1 of each fold, and how it ended.

    ``state`` is complete, pruned (given up after some folds) or fail.
    """

    number: int
    params: dict[str, Any]
    folds: tuple[float, ...]
    state: str
    seconds: float

    @property
    def score(self) -> float:
        """Mean macro-F1 of the folds."""
        return float(np.mean(self.folds))


@dataclass(frozen=True)
class Search:
    """All trials of a kind of model. ``start`` are the settings that it came with.

    ``n_train`` and ``n_test`` are the average rows that a fold trains on and leaves out.
    """

    start: dict[str, Any]
    trials: tuple[Trial, ...]
    n_train: float
    n_test: float

    @property
    def complete(self) -> list[Trial]:
        """The trials that were scored on every fold."""
        return [one for one in self.trials if one.state == "complete"]

    @property
    def first(self) -> Trial | None:
        """The settings that it came with; None where they were not scored on every fold."""
        return next((one for one in self.complete if one.params == self.start), None)

    @property
    def best(self) -> Trial:
        """The one with the highest score, which is too high by having been chosen for it."""
        return max(self.complete, key=lambda one: one.score)

    @property
    def gain(self) -> FoldInterval | None:
        """What a search gains over the start; None where that or all others are not complete.

        For each fold the setting that is best on the other folds is judged.
        """
        folds = np.array([one.folds for one in self.complete])
        if self.first is None or len(folds) < 2:
            return None
        others = folds.sum(axis=1, keepdims=True) - folds
        chosen = folds[others.argmax(axis=0), np.arange(folds.shape[1])]
        return fold_interval(chosen - self.first.folds, n_train=self.n_train, n_test=self.n_test)


def search(
    model: Any,
    frame: pd.DataFrame,
    *,
    minutes: float,
    store: Path,
    name: str,
    seed: int = 42,
    told: Callable[[Trial], None] = lambda trial: None,
) -> Search:
    """Search the space of a model's kind around what it comes with, and return all trials.

    Optuna draws settings with its tree-structured Parzen estimator and gives up what is in the
    lowest quarter after the same folds (Akiba et al. 2019): after one or two, scores that differ by
    chance change places around the median. What a killed search had finished counts, and its
    minutes too.

    Parameters
    ----------
    minutes
        After which no further setting is tried, all searches of that name together.
    store
        SQLite database of all searches.
    name
        Of this one; another one for other rows. What is not searched is added to it.
    told
        Called with each trial as it ends.

    Raises
    ------
    ValueError
        There is no space for models of that kind.
    DataError
        The folder of the database cannot be written.
    """
    import optuna

    space = SPACES.get(model.kind)
    if space is None:
        raise ValueError(f"no settings of {model.kind!r} are searched; those of {[*SPACES]} are")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    start = {key: getattr(model, key) for key in space}
    fixed = sorted((k, str(v)) for k, v in model.get_params().items() if k not in space)
    name += f" {hashlib.sha256(repr(fixed).encode()).hexdigest()[:8]}"
    with locked_folder(store.parent):
        study = optuna.create_study(
            storage=f"sqlite:///{store}",
            study_name=name,
            load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.PercentilePruner(75.0, n_startup_trials=3),
        )
        for left in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            study.tell(left.number, state=optuna.trial.TrialState.FAIL)  # of a killed process
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
        # A trial of a killed process ends when it is found: its seconds tell nothing.
        ended = [one for one in map(_trial, study.trials) if one.state in ("complete", "pruned")]
        if start not in [one.params for one in ended]:
            study.enqueue_trial(start)
        spent = sum(one.seconds for one in ended)
        if 60 * minutes > spent:
            study.optimize(
                lambda trial: _scored(model, frame, space, trial),
                timeout=60 * minutes - spent,
                callbacks=[lambda study, one: told(_trial(one))],
            )
    sizes = frame["fold"].value_counts()
    done = [_trial(one) for one in study.trials if one.user_attrs.get("folds")]
    return Search(start, tuple(done), float(len(frame) - sizes.mean()), float(sizes.mean()))


def _scored(
    model: Any, frame: pd.DataFrame, space: dict[str, tuple[float, float]], trial: Any
) -> float:
    """Return the mean score over folds of a setting that the trial suggests."""
    import optuna

    candidate = clone(model).set_params(**{k: _drawn(trial, k, *of) for k, of in space.items()})
    natural, scores = headline_mask(frame), []
    for step, fold in enumerate(sorted(frame["fold"].unique())):
        held = (frame["fold"] == fold).to_numpy()
        train, asked = frame[~held], frame[held & natural]
        fitted = clone(candidate).fit(train["query"].tolist(), train["intent"].tolist())
        answers = fitted.predict(asked["query"].tolist())
        scores.append(point_scores(asked["intent"], answers)[HEADLINE])
        trial.set_user_attr("folds", scores)
        trial.report(float(np.mean(scores)), step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return float(np.mean(scores))


def _drawn(trial: Any, name: str, low: float, high: float) -> Any:
    if isinstance(low, int):
        return trial.suggest_int(name, low, high)
    return trial.suggest_float(name, low, high, log=low > 0)


def _trial(found: Any) -> Trial:
    seconds = found.duration.total_seconds() if found.duration else 0.0
    folds = tuple(found.user_attrs.get("folds", ()))
    return Trial(found.number, dict(found.params), folds, found.state.name.lower(), seconds)
