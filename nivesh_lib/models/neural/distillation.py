"""A small model learns from the answers of a large one (Hinton, Vinyals and Dean 2015)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from nivesh_lib.models.base import TextClassifier, as_training
from nivesh_lib.models.text.typos import with_slips

_SLIPS = 0.15  # share of the words of a copy that are bent
_SMALLEST = 1e-9  # probability that a logarithm still takes


@dataclass(frozen=True)
class Teaching:
    """What a teacher said of the training rows, and how much of it to believe.

    ``logits`` is (rows, classes), classes sorted; a constant added to a row changes nothing, so
    logarithms of probabilities will do. See `distillation_loss` for the rest.
    """

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
    """Return how far a student is from its teacher and from the labels, a torch scalar.

    ``alpha * temperature**2 * KL(teacher || student) + (1 - alpha) * cross-entropy``, the
    divergence between probabilities at the temperature; its square keeps the gradients of both
    parts alike in size (Hinton et al. 2015). Temperature and mix are the platform guide's.

    Parameters
    ----------
    student_logits, teacher_logits : tensor
        Shape (rows, classes); gradients reach the student's only.
    labels : tensor
        Class numbers, shape (rows,).
    temperature : float
        Above 1 shows more of what the teacher thinks of the classes that it did not choose.
    alpha : float
        Weight of the teacher; the labels have the rest.
    """
    from torch.nn import functional

    theirs = (teacher_logits.detach() / temperature).log_softmax(dim=1)
    ours = (student_logits / temperature).log_softmax(dim=1)
    apart = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    wrong = functional.cross_entropy(student_logits, labels)
    return alpha * temperature**2 * apart + (1 - alpha) * wrong


def distil(
    student: TextClassifier,
    teacher: TextClassifier,
    X: Iterable[str],
    y: Iterable[str],
    *,
    temperature: float = 3.0,
    alpha: float = 0.7,
    copies: int = 2,
    random_state: int | None = 42,
) -> TextClassifier:
    """Return a student that learned from a fitted teacher's answers and from the labels.

    Parameters
    ----------
    student : TextClassifier
        Unfitted, and left so: a `StaticClassifier` or a `TransformerClassifier`, best one of few
        ``layers``. What its ``fit`` would do with ``label_smoothing`` and ``slips`` is left out.
    teacher : TextClassifier
        Fitted on the same labels; any model that gives probabilities.
    X, y : iterables of str
        Training rows and labels, (n,) each.
    temperature, alpha : float
        See `distillation_loss`.
    copies : int
        How often each row is taught once more with slips of the thumb, which need no new label:
        the teacher answers each copy as it reads it.
    random_state : int, optional
        Seed of the slips.

    Raises
    ------
    ValueError
        The student cannot be taught, the labels are not those of the teacher, or a number is out
        of its range.
    """
    if not (0 <= alpha <= 1 and 0 < temperature < float("inf") and copies >= 0):
        raise ValueError(
            f"alpha {alpha}, temperature {temperature}, copies {copies}: alpha lies between 0 and "
            "1, the temperature above 0, and copies are 0 or more"
        )
    check_is_fitted(teacher)
    texts, labels = as_training(X, y)
    if not hasattr(student, "fit_taught"):
        raise ValueError(f"a {student.kind} model cannot be taught; pass a static or transformer")
    if np.unique(labels).tolist() != teacher.classes_.tolist():
        raise ValueError("the labels are not those of the teacher; fit it on the same labels")
    rng = np.random.default_rng(random_state)
    taught = texts + [text for _ in range(copies) for text in with_slips(texts, _SLIPS, rng)]
    answers = np.log(np.clip(teacher.predict_proba(taught), _SMALLEST, None))
    teaching = Teaching(answers, temperature, alpha)
    learned = clone(student)
    learned.fit_taught(taught, np.tile(labels, copies + 1), teaching)
    return learned
