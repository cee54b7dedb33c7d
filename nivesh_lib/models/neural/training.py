"""The training loop of the neural models.

A query has about fifteen tokens. Rows of similar length share a batch, which is padded to its
longest row only, and matrix products run in bfloat16 where the processor supports it: this makes
fine-tuning on two CPU cores feasible.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
from scipy.special import log_softmax

from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import TextClassifier
from nivesh_lib.models.neural.distillation import DistillationTargets, distillation_loss
from nivesh_lib.models.neural.tokenizer import (
    SubwordTokenizer,
    batches_by_length,
    padded,
    shuffled_batches,
)
from nivesh_lib.models.text.hinglish import glossed
from nivesh_lib.models.text.linear import softmax
from nivesh_lib.models.text.typos import with_typos

_PRECISIONS = ("auto", "bf16", "fp32")
_PREDICT_ROWS = 64
MAX_LENGTH = 1, 16_384  # the range of ``max_length``; the longest that encoders have is 8,192

# A random generator -> the token ids of every row, in the order of the rows.
Augmenter = Callable[[np.random.Generator], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Encoded:
    """Encoded rows: token ids of each, class indices (n,), and the padding id."""

    ids: Sequence[np.ndarray]
    targets: np.ndarray
    pad_id: int

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each row, (n,)."""
        return np.array([len(row) for row in self.ids])

    def part(self, mask: np.ndarray) -> Encoded:
        """Return the rows where ``mask`` (n,) is true."""
        kept = [self.ids[n] for n in np.flatnonzero(mask).tolist()]
        return Encoded(kept, self.targets[mask], self.pad_id)


def unlabelled(ids: Sequence[np.ndarray], pad_id: int) -> Encoded:
    """Return rows for prediction, with 0 for every class index."""
    return Encoded(ids, np.zeros(len(ids), dtype=np.int64), pad_id)


class NeuralClassifier(TextClassifier):
    """Base class of classifiers with a torch network of token ids and mask to logits."""

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "max_length": MAX_LENGTH,
        "epochs": (0, 100_000),
        "batch_size": (1, 2**20),
        "learning_rate": (0.0, 1e3),
        "weight_decay": (0.0, 1e3),
        "label_smoothing": (0.0, 1.0),
        "dropout": (0.0, 1.0),
        "typo_rate": (0.0, 1.0),
    }
    glosses: bool
    max_length: int
    _tokenizer: SubwordTokenizer
    _network: Any

    def architecture(self) -> dict[str, Any]:
        """Return the number of weights, the kind of network and the optimiser."""
        weights = sum(weight.numel() for weight in self._network.parameters())
        network = type(self._network).__name__
        return {"n_parameters": weights, "network": network, "optimizer": "AdamW"}

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        """Return the token ids of prepared texts, glossed first where ``glosses``."""
        texts = [glossed(text) for text in texts] if self.glosses else texts
        return self._tokenizer.encode(texts, self.max_length)

    def _logits(self, texts: list[str]) -> np.ndarray:
        return logits_of(self._network, unlabelled(self._encode(texts), self._tokenizer.pad_id))

    def _proba(self, texts: list[str]) -> np.ndarray:
        return softmax(self._logits(texts))


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of `train`: ``warmup`` is a share of all steps, ``patience`` in epochs (0: off)."""

    epochs: int
    batch_size: int
    warmup: float = 0.1
    label_smoothing: float = 0.0
    precision: str = "auto"
    patience: int = 0
    random_state: int | None = 42
    verbose: bool = False

    @classmethod
    def of(cls, model: NeuralClassifier, **other: Any) -> TrainingConfig:
        """Take the arguments of a classifier that have the name of a setting, except ``other``."""
        own = {name: value for name, value in vars(model).items() if name in _SETTINGS}
        return cls(**own | other)


_SETTINGS = {setting.name for setting in fields(TrainingConfig)}


def device() -> Any:
    """Return the GPU if there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch within the context and restore the caller's random state after it."""
    import torch

    with torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        yield


def autocast(precision: str) -> Any:
    """Return the autocast context of forward passes.

    ``auto`` is bfloat16 on GPUs and on CPUs with bfloat16 instructions; on others it would be
    emulated, which is slower than float32.

    Raises
    ------
    ModelError
        ``precision`` is not ``auto``, ``bf16`` or ``fp32``.
    """
    import torch

    if precision not in _PRECISIONS:
        raise ModelError(f"precision {precision!r} is not one of {', '.join(_PRECISIONS)}")
    where = device().type
    fast = where == "cuda" or _has_bf16()
    enabled = precision == "bf16" or (precision == "auto" and fast)
    return torch.autocast(where, dtype=torch.bfloat16, enabled=enabled)


def _has_bf16() -> bool:
    import torch

    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))


def train(
    network: Any,
    groups: list[dict[str, Any]],
    rows: Encoded,
    config: TrainingConfig,
    validation: Encoded | None = None,
    augment: Augmenter | None = None,
    distillation: DistillationTargets | None = None,
) -> list[dict[str, float]]:
    """Train a network in place with AdamW (Loshchilov and Hutter 2019); return the history.

    Parameters
    ----------
    network : torch.nn.Module
        ``forward(ids, mask)`` returns logits (rows, classes).
    groups : list of dict
        AdamW parameter groups; their learning rates warm up and then decay to 0 linearly.
    rows : Encoded
        Training rows.
    config : TrainingConfig
        Settings.
    validation : Encoded, optional
        Rows evaluated after each epoch. The weights of the epoch with the lowest validation loss
        are restored at the end; ``patience`` epochs after it training stops.
    augment : callable, optional
        Returns the token ids of all rows, modified anew for each epoch; see `typo_augmenter`.
    distillation : DistillationTargets, optional
        A teacher's logits of the same rows; replaces label smoothing by `distillation_loss`.

    Returns
    -------
    list of dict
        For each epoch: ``epoch``, ``train_loss``, and with ``validation`` also
        ``validation_loss`` and ``validation_accuracy``.
    """
    import torch

    where = device()
    network.to(where).train()
    rng = np.random.default_rng(config.random_state)
    optimizer = torch.optim.AdamW(groups, fused=True)
    batches = len(batches_by_length(rows.lengths, config.batch_size))
    scheduler = _schedule(optimizer, batches * config.epochs, config.warmup)
    loss_of = _loss(rows.targets, config, distillation)
    history: list[dict[str, float]] = []
    best: tuple[float, dict[str, Any]] | None = None
    for epoch in range(1, config.epochs + 1):
        total = 0.0
        if augment is not None:
            rows = replace(rows, ids=augment(rng))
        order = shuffled_batches(rows.lengths, config.batch_size, rng)
        for batch in _progress(order, batches, epoch, config):
            ids, mask = _tensors(rows, batch, where)
            with autocast(config.precision):
                logits = network(ids, mask)
            loss = loss_of(logits.float(), batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            total += loss.item() * len(batch)
        metrics = {"epoch": float(epoch), "train_loss": total / len(rows.ids)}
        if validation is not None:
            metrics |= _validation_metrics(network, validation, config.precision)
            if best is None or metrics["validation_loss"] < best[0]:
                best = metrics["validation_loss"], copy.deepcopy(network.state_dict())
        history.append(metrics)
        if config.patience and _epochs_since_best(history) >= config.patience:
            break
    if best is not None:
        network.load_state_dict(best[1])
    network.to("cpu").eval()
    return history


def _loss(
    targets: np.ndarray, config: TrainingConfig, distillation: DistillationTargets | None
) -> Callable[[Any, np.ndarray], Any]:
    """Return the loss as a function of a batch's logits and row indices."""
    import torch

    cross_entropy = torch.nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)

    def loss(logits: Any, batch: np.ndarray) -> Any:
        target = torch.from_numpy(targets[batch]).to(logits.device)
        if distillation is None:
            return cross_entropy(logits, target)
        teacher = torch.from_numpy(distillation.logits[batch]).to(logits)
        temperature, alpha = distillation.temperature, distillation.alpha
        return distillation_loss(logits, teacher, target, temperature, alpha=alpha)

    return loss


def _schedule(optimizer: Any, steps: int, warmup: float) -> Any:
    import torch

    rising = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        return min((step + 1) / rising, (steps - step) / max(1, steps - rising), 1.0)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _progress(batches: Iterator[np.ndarray], total: int, epoch: int, config: TrainingConfig) -> Any:
    if not config.verbose:
        return batches
    from tqdm.auto import tqdm

    label = f"epoch {epoch} of {config.epochs}"
    return tqdm(batches, total=total, desc=label, leave=False, file=sys.stderr)


def _tensors(rows: Encoded, batch: np.ndarray, where: Any) -> tuple[Any, Any]:
    import torch

    ids, mask = padded([rows.ids[row] for row in batch], rows.pad_id)
    return torch.from_numpy(ids).to(where), torch.from_numpy(mask).to(where)


def _validation_metrics(network: Any, rows: Encoded, precision: str) -> dict[str, float]:
    logits = logits_of(network, rows, precision=precision)
    log_proba = log_softmax(logits, axis=1)
    return {
        "validation_loss": float(-log_proba[np.arange(len(logits)), rows.targets].mean()),
        "validation_accuracy": float((logits.argmax(axis=1) == rows.targets).mean()),
    }


def _epochs_since_best(history: list[dict[str, float]]) -> int:
    losses = [epoch.get("validation_loss", 0.0) for epoch in history]
    return len(losses) - 1 - int(np.argmin(losses))


def logits_of(network: Any, rows: Encoded, *, precision: str = "fp32") -> np.ndarray:
    """Return the logits of all rows, (rows, classes) float64, in their order."""
    import torch

    where = next(network.parameters()).device
    training = network.training
    network.eval()
    batches = batches_by_length(rows.lengths, _PREDICT_ROWS)
    with torch.inference_mode(), autocast(precision):
        logits = [network(*_tensors(rows, batch, where)).float().cpu() for batch in batches]
    network.train(training)
    order = np.argsort(np.concatenate(batches))
    return torch.cat(logits).numpy()[order].astype(np.float64)


def validation_mask(targets: np.ndarray, share: float, seed: int | None) -> np.ndarray:
    """Return a mask (n,) of validation rows: a share of each class, rounded down."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(targets), dtype=bool)
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        chosen[rng.permutation(members)[: int(share * len(members))]] = True
    return chosen


def typo_augmenter(
    encode: Callable[[list[str]], list[np.ndarray]], texts: list[str], rate: float
) -> Augmenter | None:
    """Return a function that encodes the texts with new typos; None for a rate of 0."""
    if not rate:
        return None
    return lambda rng: encode(with_typos(texts, rate, rng))


def parameter_groups(
    parameters: Sequence[Any], learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return AdamW groups without weight decay for biases and layer norms (one-dimensional)."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [{**group, "lr": learning_rate} for group in groups if group["params"]]
