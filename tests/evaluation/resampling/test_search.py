"""A search for hyper-parameters: pruned, resumed, within its minutes, and judged on other folds."""

from __future__ import annotations

import multiprocessing
import os

import numpy as np
import optuna
import pandas as pd
import pytest
from sklearn.base import BaseEstimator

from nivesh_lib.evaluation.resampling.search import Search, Trial, search

LABELS = ("loan", "tax")


class Skilled(BaseEstimator):
    """Is right the more often, the nearer ``C`` is to 30; knows the labels by the texts."""

    kind = "embedding"

    def __init__(self, C=1.0, seed=0):
        self.C, self.seed = C, seed

    def fit(self, X, y):
        return self

    def predict(self, X):
        wrong = np.random.default_rng(self.seed).random(len(X)) < abs(np.log(self.C / 30)) / 8
        return [LABELS[int(text.startswith("tax") != w)] for text, w in zip(X, wrong, strict=True)]


class Killed(Skilled):
    """Ends the process in its second fold, once the first setting is scored."""

    def fit(self, X, y):
        os._exit(9) if self.C != 1.0 else None
        return self


@pytest.fixture
def frame():
    rows = pd.DataFrame({"intent": [LABELS[n % 2] for n in range(200)]})
    return rows.assign(query=rows["intent"], fold=np.arange(200) // 2 % 5)


def searched(model, frame, store, minutes=1.0, name="toy", **options):
    return search(
        model, frame, minutes=minutes, store=store / "trials.sqlite", name=name, **options
    )


def test_what_is_found_is_better_and_what_is_worse_is_given_up(frame, tmp_path):
    told = []
    found = searched(Skilled(), frame, tmp_path, minutes=0.05, told=told.append)
    assert found.trials[0].params == found.start == {"C": 1.0}
    assert found.best.score > found.trials[0].score and found.gain.low > 0
    pruned = [one for one in found.trials if one.state == "pruned"]
    assert pruned and all(len(one.folds) < 5 for one in pruned)
    assert [one.number for one in told] == [one.number for one in found.trials]


def test_a_search_goes_on_where_it_was_and_only_for_the_minutes_that_are_left(frame, tmp_path):
    first = searched(Skilled(), frame, tmp_path, minutes=0.01)
    spent = sum(one.seconds for one in first.trials) / 60
    again = searched(Skilled(), frame, tmp_path, minutes=spent)
    assert again.trials == first.trials  # its time was over
    more = searched(Skilled(), frame, tmp_path, minutes=0.05)
    assert len(more.trials) > len(first.trials) and more.trials[: len(first.trials)] == first.trials
    other = searched(Skilled(seed=1), frame, tmp_path, minutes=0.01)
    assert other.trials[0].folds != first.trials[0].folds  # what is not searched differs


def test_a_killed_search_keeps_what_it_had_scored(frame, tmp_path):
    def work():
        searched(Killed(), frame, tmp_path)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 9
    store = f"sqlite:///{tmp_path / 'trials.sqlite'}"
    (name,) = optuna.get_all_study_names(store)
    assert [one.state.name for one in optuna.load_study(study_name=name, storage=store).trials] == [
        "COMPLETE",
        "RUNNING",
    ]
    again = searched(Skilled(), frame, tmp_path, minutes=0.02)  # the killed one took no minutes
    assert len(again.trials) > 1 and again.first.number == 0
    found = searched(Killed(seed=1), frame, tmp_path, minutes=0.0001)
    assert [one.state for one in found.trials] == ["complete"] and found.gain is None


def test_the_gain_is_of_settings_that_were_chosen_on_other_folds():
    trials = (
        Trial(0, {"C": 1.0}, (0.8, 0.8), "complete", 1.0),
        Trial(1, {"C": 2.0}, (0.9, 0.7), "complete", 1.0),
        Trial(2, {"C": 3.0}, (0.7, 0.95), "complete", 1.0),
    )
    found = Search({"C": 1.0}, trials, 100, 50)
    # Best on the second fold is 2, which has 0.7 on the first; best on the first is 1.
    assert found.best.number == 2 and found.gain.value == pytest.approx(-0.1)
    assert Search({"C": 9.0}, trials, 100, 50).gain is None


def test_a_kind_without_a_space_is_refused(frame, tmp_path):
    model = Skilled()
    model.kind = "rules"
    with pytest.raises(ValueError, match="no settings of 'rules' are searched"):
        searched(model, frame, tmp_path)
