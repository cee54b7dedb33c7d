from __future__ import annotations

import json

import numpy as np
import pytest

from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import get_model
from nivesh_lib.serving.predictor import Predictor


class Double:
    """Answers every text with the same probabilities."""

    def __init__(self, *row):
        self.row = row
        self.classes_ = np.array(["budget", "goal", "loan", "tax"][: len(row)], dtype=object)

    def predict_proba(self, X):
        return np.tile(np.array(self.row), (len(X), 1))


def test_the_answer_is_the_most_probable_label_and_the_next_two():
    (answer,) = Predictor(Double(0.1, 0.2, 0.4, 0.3)).predict(["loan?"])
    assert answer == {
        "intent": "loan",
        "confidence": 0.4,
        "alternatives": [
            {"intent": "tax", "confidence": 0.3},
            {"intent": "goal", "confidence": 0.2},
        ],
    }


@pytest.mark.parametrize(("wanted", "given"), [(0, 0), (1, 1), (3, 3), (9, 3)])
def test_alternatives_are_as_many_as_wanted_or_there_are(wanted, given):
    (answer,) = Predictor(Double(0.1, 0.2, 0.4, 0.3), n_alternatives=wanted).predict(["loan?"])
    assert len(answer["alternatives"]) == given


def test_of_equals_the_first_wins_as_in_predict():
    (answer,) = Predictor(Double(0.2, 0.4, 0.4)).predict(["?"])
    assert [answer["intent"], *[a["intent"] for a in answer["alternatives"]]] == [
        "goal",
        "loan",
        "budget",
    ]


class Doubtful(Double):
    """Acts on short texts only."""

    def accepts(self, X, proba):
        return np.array(
            [len(text) < 5 and row.max() > 0.5 for text, row in zip(X, proba, strict=True)]
        )


def test_an_abstaining_model_says_what_to_hand_over_and_others_do_not():
    long, short = Predictor(Doubtful(0.2, 0.8)).predict(["what is this", "loan"])
    assert (long["abstained"], short["abstained"]) == (True, False)
    assert long["intent"] == short["intent"] == "goal"
    assert "abstained" not in Predictor(Double(0.2, 0.8)).predict(["loan"])[0]


def test_an_answer_is_plain_json_with_short_digits():
    (answer,) = Predictor(Double(1 / 3, 2 / 3)).predict(["?"])
    assert json.loads(json.dumps(answer))["confidence"] == 0.6667


def test_there_is_one_answer_for_each_query_in_order():
    model = get_model("tfidf").fit(["save tax", "home loan"], ["tax", "loan"])
    answers = Predictor(model).predict(iter(["loan", "", "tax"]))
    assert [answers[0]["intent"], answers[2]["intent"]] == ["loan", "tax"]
    assert len(answers) == 3


def test_no_queries_get_no_answers():
    assert Predictor(Double(1.0)).predict([]) == []


@pytest.mark.parametrize("queries", ["one string", [None], [3]])
def test_what_is_no_list_of_strings_is_refused(queries):
    with pytest.raises(TypeError):
        Predictor(Double(1.0)).predict(queries)


def test_a_predictor_answers_from_a_saved_model(tmp_path):
    model = get_model("rules").fit(["save tax", "home loan"], ["tax", "loan"])
    loaded = Predictor.from_directory(model.save(tmp_path / "model"))
    assert loaded.predict(["my tax"]) == Predictor(model).predict(["my tax"])


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no model\.json here"):
        Predictor.from_directory(tmp_path)
