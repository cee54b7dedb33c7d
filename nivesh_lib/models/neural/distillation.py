"""Knowledge distillation: training a student on a teacher's probabilities (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.models.base import TextClassifier, as_training
from nivesh_lib.models.text.typos import with_typos

_TYPO_RATE = 0.15  # of the words of an augmented copy
_SMALLEST = 1e-9  # lower bound of probabilities whose logarithm is taken


@dataclass(frozen=True)
class DistillationTargets:
    """Training texts with labels and a teacher's logits.

    ``texts`` (n,) are prepared, ``labels`` is (n,). ``logits`` is (n, classes), classes sorted;
    log-probabilities will do, since a constant added to a row changes nothing. ``temperature``
    and ``alpha`` are those of `distillation_loss`.
    """

    texts: list[str]
    labels: np.ndarray
    logits: np.ndarray
    temperature: float = 3.0
    alpha: float = 0.7


def distillation_loss(
    student_logits: Any,
    teacher_logits: Any,
    labels: Any,
    temperature: float = 3.0,
    *,
    alpha: float = 0.7,
) -> Any:
    """Return the distillation loss, a torch scalar.

    ``alpha * temperature**2 * KL(teacher || student) + (1 - alpha) * cross-entropy``, where the
    divergence is between probabilities at the temperature; the factor ``temperature**2`` keeps the
    gradients of both terms comparable (Hinton, Vinyals and Dean 2015). The defaults are those of
    the platform guide.

    Parameters
    ----------
    student_logits, teacher_logits : tensor
        Shape (rows, classes); gradients flow to the student only.
    labels : tensor
        Class indices, shape (rows,).
    temperature : float
        Above 1 flattens the teacher's probabilities.
    alpha : float
        Weight of the teacher term, between 0 and 1.
    """
    from torch.nn import functional

    teacher = (teacher_logits.detach() / temperature).log_softmax(dim=1)
    student = (student_logits / temperature).log_softmax(dim=1)
    divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    cross_entropy = functional.cross_entropy(student_logits, labels)
    return alpha * temperature**2 * divergence + (1 - alpha) * cross_entropy


def distillation_targets(
    teacher: TextClassifier,
    X: Iterable[str],
    y: Iterable[str],
    *,
    temperature: float = 3.0,
    alpha: float = 0.7,
    copies: int = 2,
    random_state: int | None = 42,
) -> DistillationTargets:
    """Return what a fitted teacher predicts for training rows; several students can use it.

    Parameters
    ----------
    teacher : TextClassifier
        Fitted on the same labels, of any kind.
    X, y : iterables of str
        Training texts and labels, (n,) each.
    temperature, alpha : float
        See `distillation_loss`.
    copies : int
        Copies of each row with typos, added to the original rows; the teacher predicts each copy,
        so that they need no label of their own.
    random_state : int, optional
        Seed of the typos.

    Raises
    ------
    ValueError
        The labels are not those of the teacher, or a number is out of range.
    """
    if not (0 <= alpha <= 1 and 0 < temperature < float("inf") and copies >= 0):
        raise ValueError(
            f"alpha {alpha}, temperature {temperature}, copies {copies}: alpha lies between 0 and "
            "1, the temperature above 0, and copies are 0 or more"
        )
    check_is_fitted(teacher)
    texts, labels = as_training(X, y)
    if np.unique(labels).tolist() != teacher.classes_.tolist():
        raise ValueError("the labels are not those of the teacher; fit it on the same labels")
    rng = np.random.default_rng(random_state)
    texts += [text for _ in range(copies) for text in with_typos(texts, _TYPO_RATE, rng)]
    logits = np.log(np.clip(teacher.predict_proba(texts), _SMALLEST, None))
    return DistillationTargets(texts, np.tile(labels, copies + 1), logits, temperature, alpha)


def distil(student: TextClassifier, targets: DistillationTargets) -> TextClassifier:
    """Return a copy of an unfitted student, trained on a teacher's predictions and the labels.

    Parameters
    ----------
    student : TextClassifier
        A `StaticClassifier` or `TransformerClassifier`; its ``label_smoothing`` and ``typo_rate``
        are not used.
    targets : DistillationTargets
        See `distillation_targets`.

    Raises
    ------
    ValueError
        The student is of another kind.
    """
    if not hasattr(student, "fit_distilled"):
        raise ValueError(
            f"a {student.kind} model has no fit_distilled; pass a static or transformer"
        )
    trained = clone(student)
    trained.fit_distilled(targets)
    return trained
