from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.models.base import get_model, load_model
from nivesh_lib.models.wrappers.cascade import Cascade
from nivesh_lib.models.wrappers.selective import Calibrated
from tests.models.conftest import LABELS, QUERIES, TEXTS

ASKED = TEXTS + QUERIES


@pytest.fixture(scope="module")
def student():
    return get_model("rules").fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def teacher():
    return get_model("tfidf").fit(TEXTS, LABELS)


def test_each_row_is_that_of_whoever_answers(student, teacher):
    own, better = student.predict_proba(ASKED), teacher.predict_proba(ASKED)
    sure = own.max(axis=1) >= 0.6
    assert 0 < sure.sum() < len(sure)
    found = Cascade.of(student, teacher, threshold=0.6).predict_proba(ASKED)
    np.testing.assert_array_equal(found, np.where(sure[:, None], own, better))


def test_the_teacher_gets_only_what_is_left_and_in_one_call(student, teacher, monkeypatch):
    calls = []
    answer = teacher._proba
    monkeypatch.setattr(teacher, "_proba", lambda texts: (calls.append(texts), answer(texts))[1])
    Cascade.of(student, teacher, threshold=0.6).predict(ASKED)
    sure = student.predict_proba(ASKED).max(axis=1) >= 0.6
    assert [len(texts) for texts in calls] == [(~sure).sum()]


@pytest.mark.parametrize(("threshold", "by_student"), [(0.0, True), (2.0, False)])
def test_a_threshold_of_nothing_and_one_out_of_reach(student, teacher, threshold, by_student):
    model = Cascade.of(student, teacher, threshold=threshold)
    alone = student if by_student else teacher
    np.testing.assert_array_equal(model.predict(ASKED), alone.predict(ASKED))


def test_joining_fitted_models_is_fitting_them(student, teacher):
    joined = Cascade.of(student, teacher, threshold=0.6)
    anew = Cascade(get_model("rules"), get_model("tfidf"), 0.6).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(joined.predict_proba(ASKED), anew.predict_proba(ASKED))


def test_its_seed_reaches_both_models():
    model = Cascade(get_model("rules"), get_model("tfidf"), random_state=7).fit(TEXTS, LABELS)
    assert (model.student_.random_state, model.teacher_.random_state) == (7, 7)


def test_a_calibrated_student_keeps_its_temperature_when_saved(student, teacher, tmp_path):
    model = Cascade.of(Calibrated.of(student, temperature=2.0), teacher, threshold=0.5)
    loaded = load_model(model.save(tmp_path / "model"))
    assert (loaded.student_.temperature, loaded.threshold) == (2.0, 0.5)
    np.testing.assert_array_equal(loaded.predict_proba(ASKED), model.predict_proba(ASKED))


def test_models_of_other_classes_are_not_joined(student):
    other = get_model("tfidf").fit(TEXTS[:8], LABELS[:8])
    with pytest.raises(ValueError, match="the classes of the student are not those"):
        Cascade.of(student, other, threshold=0.6)


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf"), "0.5", None])
def test_a_threshold_that_is_none_is_refused(student, teacher, threshold):
    with pytest.raises(ValueError, match="is not a number from 0 on"):
        Cascade.of(student, teacher, threshold=threshold)


def test_without_a_model_inside_it_says_what_to_pass():
    with pytest.raises(ValueError, match="student or teacher is None"):
        Cascade(get_model("rules")).fit(TEXTS, LABELS)
