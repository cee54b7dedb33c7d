from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from nivesh_lib.models.base import get_model
from nivesh_lib.models.neural.distillation import distil, distillation_loss, distillation_targets
from tests.models.conftest import LABELS, TEXTS, small_model


def by_hand(student, teacher, labels, temperature, alpha):
    """Return the loss of the paper, in NumPy."""

    def log_proba(logits):
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    theirs, ours = log_proba(teacher / temperature), log_proba(student / temperature)
    apart = (np.exp(theirs) * (theirs - ours)).sum(axis=1).mean()
    wrong = -log_proba(student)[np.arange(len(labels)), labels].mean()
    return alpha * temperature**2 * apart + (1 - alpha) * wrong


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 3)), rng.normal(size=(5, 3)) * 4


@pytest.mark.parametrize(("temperature", "alpha"), [(3.0, 0.7), (1.0, 0.5), (5.0, 1.0), (2.0, 0.0)])
def test_the_loss_is_that_of_the_paper(logits, temperature, alpha):
    labels = np.array([0, 2, 1, 1, 0])
    given = [torch.from_numpy(part) for part in (*logits, labels)]
    found = distillation_loss(*given, temperature, alpha=alpha).item()
    assert found == pytest.approx(by_hand(*logits, labels, temperature, alpha))


def test_name_order_and_figures_are_the_guide_s():
    parameters = inspect.signature(distillation_loss).parameters
    assert list(parameters)[:4] == ["student_logits", "teacher_logits", "labels", "temperature"]
    assert parameters["temperature"].default == 3.0 and parameters["alpha"].default == 0.7


def test_a_constant_on_a_row_of_the_teacher_changes_nothing(logits):
    student, teacher, labels = *map(torch.from_numpy, logits), torch.tensor([0, 2, 1, 1, 0])
    moved = distillation_loss(student, teacher + 7.0, labels)
    assert moved.item() == pytest.approx(distillation_loss(student, teacher, labels).item())


def test_gradients_reach_the_student_only(logits):
    student, teacher = (torch.from_numpy(part).requires_grad_() for part in logits)
    distillation_loss(student, teacher, torch.tensor([0, 2, 1, 1, 0])).backward()
    assert student.grad is not None and teacher.grad is None


@pytest.fixture(scope="module")
def teacher():
    return get_model("tfidf").fit(TEXTS, LABELS)


@pytest.mark.parametrize("kind", ["static", "transformer"])
def test_a_student_follows_its_teacher_or_the_labels_as_alpha_says(kind):
    turned = LABELS[4:] + LABELS[:4]  # the teacher never predicts the label
    contrary = get_model("tfidf", C=100.0).fit(TEXTS, turned)
    for alpha, expected in ((1.0, turned), (0.0, LABELS)):
        targets = distillation_targets(
            contrary, TEXTS, LABELS, temperature=1.0, alpha=alpha, copies=0
        )
        assert distil(small_model(kind), targets).predict(TEXTS).tolist() == expected


def test_the_student_that_is_given_stays_unfitted(teacher):
    student = small_model("static")
    trained = distil(student, distillation_targets(teacher, TEXTS, LABELS))
    assert trained is not student and not hasattr(student, "classes_")
    assert trained.get_params() == student.get_params()


def test_each_copy_has_typos_of_its_own_and_the_teacher_s_prediction(teacher):
    targets = distillation_targets(teacher, TEXTS, LABELS, copies=3)
    assert targets.labels.tolist() == LABELS * 4 and targets.texts[: len(TEXTS)] == TEXTS
    assert len(set(targets.texts)) > 2 * len(TEXTS)
    np.testing.assert_allclose(np.exp(targets.logits), teacher.predict_proba(targets.texts))


def test_a_student_that_cannot_be_distilled_is_refused(teacher):
    with pytest.raises(ValueError, match="a tfidf model has no fit_distilled"):
        distil(get_model("tfidf"), distillation_targets(teacher, TEXTS, LABELS))


def test_labels_that_the_teacher_does_not_know_are_refused(teacher):
    with pytest.raises(ValueError, match="not those of the teacher"):
        distillation_targets(teacher, TEXTS, ["a", "b"] * 6)


@pytest.mark.parametrize("odd", [{"alpha": -1}, {"temperature": 0}, {"copies": -1}], ids=str)
def test_numbers_out_of_range_are_refused(teacher, odd):
    with pytest.raises(ValueError, match="alpha lies between 0 and 1"):
        distillation_targets(teacher, TEXTS, LABELS, **odd)
