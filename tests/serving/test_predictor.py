from __future__ import annotations

import json
import tracemalloc
from itertools import islice

import numpy as np
import pytest

from nivesh_lib.errors import DataError, ModelError
from nivesh_lib.models.base import get_model
from nivesh_lib.records.release import RESPONSE
from nivesh_lib.serving.predictor import Predictor, as_line


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


def test_an_answer_has_the_fields_that_a_release_records():
    assert set(Predictor(Double(0.2, 0.8)).predict(["loan"])[0]) == set(RESPONSE)


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


# --- many queries ----------------------------------------------------------------


class Lengths:
    """Answers "long" from ten characters on, and remembers how many it was given at once."""

    classes_ = np.array(["long", "short"], dtype=object)

    def __init__(self):
        self.batches = []

    def predict_proba(self, X):
        self.batches.append([len(text) for text in X])
        long = np.array([len(text) >= 10 for text in X])
        return np.stack([long, ~long], axis=1).astype(float)


def mixed(n):
    return ["x" * (7 * number % 23) for number in range(n)]


@pytest.mark.parametrize("n", [0, 1, 32, 256, 257, 1000])
def test_many_answers_are_those_of_single_queries_in_their_order(n):
    predictor = Predictor(Lengths())
    assert list(predictor.predict_batch(iter(mixed(n)))) == predictor.predict(mixed(n))


@pytest.mark.parametrize("kind", ["rules", "tfidf"])
def test_a_real_model_answers_many_as_it_answers_one(kind):
    predictor = Predictor(get_model(kind).fit(["save tax", "home loan"], ["tax", "loan"]))
    queries = ["tax", "a loan for my home", "", "loan"] * 20
    assert list(predictor.predict_batch(queries, 8)) == [
        predictor.predict([query])[0] for query in queries
    ]


def test_an_abstaining_model_hands_over_the_same_ones_of_many():
    queries = ["what is this", "loan"] * 50
    answers = list(Predictor(Doubtful(0.2, 0.8)).predict_batch(queries, batch_size=8))
    assert [answer["abstained"] for answer in answers] == [True, False] * 50


def test_a_batch_holds_queries_of_like_length_and_no_more_than_asked_for():
    model = Lengths()
    list(Predictor(model).predict_batch(mixed(512), batch_size=16))
    padded = sum(max(batch) * len(batch) for batch in model.batches)
    assert max(map(len, model.batches)) == 16
    assert padded < 1.2 * sum(map(sum, model.batches))  # twice as much where order is chance


def test_no_more_is_read_than_a_window_ahead():
    source = iter(mixed(1000))
    answers = Predictor(Lengths()).predict_batch(source, batch_size=4, window=10)
    assert len(list(source)) == 1000 and list(answers) == []
    source = iter(mixed(1000))
    next(Predictor(Lengths()).predict_batch(source, batch_size=4, window=10))
    assert len(list(source)) == 990


class Forgetful(Lengths):
    def predict_proba(self, X):
        return np.full((len(X), 2), 0.5)


def test_answers_keep_up_with_what_is_read():
    read = answered = most_ahead = 0

    def source():
        nonlocal read
        while read < 200_000:
            read += 1
            yield "q"

    predictor = Predictor(Forgetful(), n_alternatives=0)
    for _ in predictor.predict_batch(source()):
        most_ahead = max(most_ahead, read - answered)
        answered += 1
    assert (answered, most_ahead) == (200_000, 256)


def test_memory_does_not_grow_with_the_queries():
    predictor = Predictor(Forgetful(), n_alternatives=0)
    tracemalloc.start()
    answered = sum(1 for _ in predictor.predict_batch(f"{n} " * 100 for n in range(20_000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answered == 20_000 and peak < 1_000_000


def test_a_query_that_is_no_text_is_named_after_the_answers_before_it():
    answers = Predictor(Lengths()).predict_batch(["a", "b", None, "c"])
    assert [next(answers)["intent"], next(answers)["intent"]] == ["short", "short"]
    with pytest.raises(TypeError, match=r"queries\[2\] is NoneType, not str"):
        next(answers)


def test_what_comes_before_an_error_of_the_source_is_answered():
    def source():
        yield from ["a", "b", "c"]
        raise DataError("row 4")

    answers = Predictor(Lengths()).predict_batch(source(), batch_size=2, window=2)
    assert [answer["intent"] for answer in islice(answers, 3)] == ["short"] * 3
    with pytest.raises(DataError, match="row 4"):
        next(answers)


@pytest.mark.parametrize(
    ("queries", "options", "error"),
    [
        ("one string", {}, TypeError),
        (["a"], {"batch_size": 0}, ValueError),
        (["a"], {"window": 0}, ValueError),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_read(queries, options, error):
    with pytest.raises(error):
        Predictor(Lengths()).predict_batch(queries, **options)


def test_the_bar_is_on_standard_error_and_only_when_wanted(capsys):
    predictor = Predictor(Lengths())
    list(predictor.predict_batch(mixed(40)))
    assert capsys.readouterr() == ("", "")
    list(predictor.predict_batch(mixed(40), progress=True))
    list(predictor.predict_batch(iter(mixed(40)), progress=True, total=41))
    out, err = capsys.readouterr()
    assert out == "" and "/40" in err and "/41" in err


def test_a_line_of_an_answer_to_hand_over_says_so():
    answer = {"intent": "loan", "confidence": 0.4, "alternatives": [], "abstained": True}
    assert as_line(answer) == "abstain   (rather than loan 0.40)"
    assert as_line(answer | {"abstained": False}) == "loan 0.40"
