from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nivesh_lib.evaluation.compression.cascade import (
    NEVER,
    cascade_answers,
    choose_threshold,
)
from nivesh_lib.evaluation.resampling.cross_validation import predicted_labels
from tests.evaluation.answers import LABELS, rows, table

FRAME = rows(500)
SURE = np.linspace(0.99, 0.4, 500)  # the first row is the surest
TEACHER = table(FRAME, wrong=range(9, 500, 10))
# As right as the teacher on the first 350 rows, and always wrong on the rest.
STUDENT = table(FRAME, wrong=[*range(9, 350, 10), *range(350, 500)], sure=SURE)


def test_hard_rows_do_not_count():
    frame = FRAME.assign(selection=["natural"] * 350 + ["hard"] * 150)
    assert choose_threshold(STUDENT, TEACHER, frame).threshold == 0


def test_the_student_answers_until_it_begins_to_fail():
    found = choose_threshold(STUDENT, TEACHER, FRAME)
    assert found.threshold == pytest.approx(SURE[349], abs=0.005)
    assert found.share.value == pytest.approx(0.7, abs=0.01)
    assert found.loss.value <= 0.002


def test_a_larger_loss_lets_it_answer_more():
    shares = [
        choose_threshold(STUDENT, TEACHER, FRAME, allowed_loss=loss).share.value
        for loss in (0.002, 0.05, 1.0)
    ]
    assert shares == sorted(shares) and shares[2] == 1


def test_a_student_that_fails_at_once_answers_nothing():
    found = choose_threshold(table(FRAME, wrong=range(500), sure=SURE), TEACHER, FRAME)
    assert (found.threshold, found.share.value, found.loss.value) == (NEVER, 0, 0)


def test_each_fold_is_evaluated_at_the_threshold_of_the_others():
    # In fold 0 the student is wrong where it is surest: the other folds cannot know.
    frame = FRAME.assign(fold=(np.arange(500) >= 100).astype(int))
    student = table(frame, wrong=range(100), sure=SURE)
    found = choose_threshold(student, table(frame), frame)
    assert found.by_fold == {0: 0.0, 1: NEVER}
    assert found.loss.value == pytest.approx(100 / 500)
    assert found.loss.value > found.allowed_loss


def test_a_threshold_keeps_a_margin():
    # The student wins back on some rows what it lost on others: by chance it could lose more.
    student, teacher = table(FRAME, range(20), sure=SURE), table(FRAME, range(20, 40))
    assert choose_threshold(student, teacher, FRAME, allowed_loss=0.0).threshold == NEVER


@pytest.mark.parametrize(("bounds", "wrong"), [(0.0, STUDENT), (NEVER, TEACHER)])
def test_answers_are_the_students_from_its_threshold_on_and_else_the_teachers(bounds, wrong):
    found = cascade_answers(STUDENT, TEACHER, dict.fromkeys(range(5), bounds))
    pd.testing.assert_frame_equal(found, wrong, check_dtype=False)


def test_the_answers_have_the_cross_fitted_accuracy():
    chosen = choose_threshold(STUDENT, TEACHER, FRAME)
    shuffled = STUDENT.sample(frac=1, random_state=0)
    answers = predicted_labels(cascade_answers(shuffled, TEACHER, chosen.by_fold))
    assert (answers == FRAME["intent"]).mean() == pytest.approx(chosen.accuracy.value)


def test_a_student_of_other_labels_never_answers():
    with pytest.raises(ValueError, match="different labels: 'gold' is only in one"):
        choose_threshold(STUDENT.rename(columns={"loan": "gold"}), TEACHER, FRAME)


def test_labels_in_another_order_are_the_same_labels():
    turned = STUDENT[["id", "fold", *LABELS[::-1]]]
    assert choose_threshold(turned, TEACHER, FRAME) == choose_threshold(STUDENT, TEACHER, FRAME)


def test_models_of_other_folds_are_refused():
    with pytest.raises(ValueError, match="different folds"):
        choose_threshold(STUDENT.assign(fold=0), TEACHER, FRAME)


@pytest.mark.parametrize("odd", [None, "gold"])
def test_a_true_label_that_no_model_has_is_named(odd):
    frame = FRAME.assign(intent=[*FRAME["intent"][:-6], *[odd] * 6])
    with pytest.raises(ValueError, match="intent of 'q494' is"):
        choose_threshold(STUDENT, TEACHER, frame)


def test_a_single_fold_is_refused():
    with pytest.raises(ValueError, match="fewer than 2 folds"):
        choose_threshold(STUDENT.assign(fold=0), TEACHER.assign(fold=0), FRAME)


@pytest.mark.parametrize("loss", [-0.1, 2, float("nan")])
def test_a_loss_that_is_no_share_is_refused(loss):
    with pytest.raises(ValueError, match="is no share"):
        choose_threshold(STUDENT, TEACHER, FRAME, allowed_loss=loss)


def test_a_table_with_a_missing_probability_is_refused():
    holed = STUDENT.copy()
    holed.loc[3, LABELS[0]] = np.nan
    with pytest.raises(ValueError, match="has a probability that is not a number"):
        choose_threshold(holed, TEACHER, FRAME)
