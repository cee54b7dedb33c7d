"""The training loop of the neural models: short batches, few bytes, no surprises.

A query has about fifteen word pieces. Rows of similar length share a batch, padding ends at the
longest of them, and matrix products run in bfloat16 where the processor has instructions for it;
that, and not a smaller model, is what makes fine-tuning on two cores bearable.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nivesh_lib.errors import ModelError
from nivesh_lib.models.neural.distillation import Teaching, distillation_loss
from nivesh_lib.models.neural.tokenizer import by_length, padded, shuffled
from nivesh_lib.models.text.typos import with_slips

_PRECISIONS = ("auto", "bf16", "fp32")
_PREDICT_ROWS = 64

# A random generator -> the ids of every row, in the order of the rows.
Rewriter = Callable[[np.random.Generator], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Encoded:
    """Rows ready for a network: the ids of each, its class number, and the padding's id."""

    ids: Sequence[np.ndarray]
    targets: np.ndarray
    pad_id: int

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of ids of each row."""
        return np.array([len(row) for row in self.ids])

    def part(self, mask: np.ndarray) -> Encoded:
        """Return the rows where ``mask`` is true."""
        kept = [self.ids[n] for n in np.flatnonzero(mask).tolist()]
        return Encoded(kept, self.targets[mask], self.pad_id)


def unlabelled(ids: Sequence[np.ndarray], pad_id: int) -> Encoded:
    """Return rows that are only to be answered; their class numbers say nothing."""
    return Encoded(ids, np.zeros(len(ids), dtype=np.int64), pad_id)


@dataclass(frozen=True)
class Recipe:
    """How to train. ``warmup`` is a share of all steps, ``patience`` counts epochs (0: off)."""

    epochs: int
    batch_size: int
    warmup: float = 0.1
    label_smoothing: float = 0.0
    precision: str = "auto"
    patience: int = 0
    seed: int | None = 42
    verbose: bool = False


def device() -> Any:
    """Return the GPU where there is one, else the processor."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch inside, and leave the caller's random state as it was."""
    import torch

    with torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        yield


def autocast(precision: str) -> Any:
    """Return the context in which forward passes run.

    ``auto`` is bfloat16 on a GPU and on processors with instructions for it; elsewhere it would
    be emulated and lose time.
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
    recipe: Recipe,
    validation: Encoded | None = None,
    rewritten: Rewriter | None = None,
    teaching: Teaching | None = None,
) -> list[dict[str, float]]:
    """Train in place with AdamW (Loshchilov and Hutter 2019) and return the history.

    Parameters
    ----------
    network
        Module whose ``forward(ids, mask)`` returns logits (rows, classes).
    groups
        AdamW's parameter groups; the learning rate rises to theirs and falls to 0 linearly.
    validation
        Rows to watch: the history gains their loss and accuracy, and the weights end as those of
        the epoch with the least loss. With ``patience``, training stops that many epochs later.
    rewritten
        Writes the texts of all rows anew for each epoch; see `models.augmentation`.
    teaching
        What another model said of the rows, to learn from beside the class numbers; labels are
        then not smoothed.

    Returns
    -------
    list of dict
        One for each epoch: ``epoch``, ``train_loss``, and of the watched rows
        ``validation_loss``, ``validation_accuracy``.
    """
    import torch

    where = device()
    network.to(where).train()
    rng = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.AdamW(groups, fused=True)
    batches = len(by_length(rows.lengths, recipe.batch_size))
    scheduler = _schedule(optimizer, batches * recipe.epochs, recipe.warmup)
    loss_of = _loss(rows.targets, recipe, teaching)
    history: list[dict[str, float]] = []
    best: tuple[float, dict[str, Any]] | None = None
    for epoch in range(1, recipe.epochs + 1):
        total = 0.0
        if rewritten is not None:
            rows = replace(rows, ids=rewritten(rng))
        order = shuffled(rows.lengths, recipe.batch_size, rng)
        for batch in _progress(order, batches, epoch, recipe):
            ids, mask = _tensors(rows, batch, where)
            with autocast(recipe.precision):
                logits = network(ids, mask)
            loss = loss_of(logits.float(), batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            total += loss.item() * len(batch)
        told = {"epoch": float(epoch), "train_loss": total / len(rows.ids)}
        if validation is not None:
            watched = _watch(network, validation, recipe.precision)
            told |= watched
            if best is None or watched["validation_loss"] < best[0]:
                best = watched["validation_loss"], _copy(network)
        history.append(told)
        if recipe.patience and _since_best(history) >= recipe.patience:
            break
    if best is not None:
        network.load_state_dict(best[1])
    network.to("cpu").eval()
    return history


def _loss(
    targets: np.ndarray, recipe: Recipe, teaching: Teaching | None
) -> Callable[[Any, np.ndarray], Any]:
    """Return the function from logits and row numbers of a batch to its loss."""
    import torch

    cross_entropy = torch.nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)

    def loss(logits: Any, batch: np.ndarray) -> Any:
        target = torch.from_numpy(targets[batch]).to(logits.device)
        if teaching is None:
            return cross_entropy(logits, target)
        theirs = torch.from_numpy(teaching.logits[batch]).to(logits)
        return distillation_loss(logits, theirs, target, teaching.temperature, alpha=teaching.alpha)

    return loss


def _schedule(optimizer: Any, steps: int, warmup: float) -> Any:
    import torch

    rising = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        return min((step + 1) / rising, (steps - step) / max(1, steps - rising), 1.0)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _progress(batches: Iterator[np.ndarray], total: int, epoch: int, recipe: Recipe) -> Any:
    if not recipe.verbose:
        return batches
    from tqdm.auto import tqdm

    label = f"epoch {epoch} of {recipe.epochs}"
    return tqdm(batches, total=total, desc=label, leave=False, file=sys.stderr)


def _tensors(rows: Encoded, batch: np.ndarray, where: Any) -> tuple[Any, Any]:
    import torch

    ids, mask = padded([rows.ids[row] for row in batch], rows.pad_id)
    return torch.from_numpy(ids).to(where), torch.from_numpy(mask).to(where)


def _watch(network: Any, rows: Encoded, precision: str) -> dict[str, float]:
    logits = logits_of(network, rows, precision=precision)
    logits -= logits.max(axis=1, keepdims=True)
    log_proba = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return {
        "validation_loss": float(-log_proba[np.arange(len(logits)), rows.targets].mean()),
        "validation_accuracy": float((logits.argmax(axis=1) == rows.targets).mean()),
    }


def _copy(network: Any) -> dict[str, Any]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _since_best(history: list[dict[str, float]]) -> int:
    losses = [epoch.get("validation_loss", 0.0) for epoch in history]
    return len(losses) - 1 - int(np.argmin(losses))


def logits_of(network: Any, rows: Encoded, *, precision: str = "fp32") -> np.ndarray:
    """Return the logits of each row, (rows, classes) float64, in the order given."""
    import torch

    where = next(network.parameters()).device
    training = network.training
    network.eval()
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    with torch.inference_mode(), autocast(precision):
        for batch in by_length(rows.lengths, _PREDICT_ROWS):
            parts.append((batch, network(*_tensors(rows, batch, where)).float().cpu().numpy()))
    network.train(training)
    order = np.concatenate([batch for batch, _ in parts])
    found = np.concatenate([logits for _, logits in parts])
    return found[np.argsort(order)].astype(np.float64)


def watched_mask(targets: np.ndarray, share: float, seed: int | None) -> np.ndarray:
    """Return which rows, (n,), to set aside: a share of each class, none of the smallest."""
    rng = np.random.default_rng(seed)
    watched = np.zeros(len(targets), dtype=bool)
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        watched[rng.permutation(members)[: int(share * len(members))]] = True
    return watched


def rewriter(
    encode: Callable[[list[str]], list[np.ndarray]], texts: list[str], slips: float
) -> Rewriter | None:
    """Return what writes the texts anew for each epoch, with slips; None where there are none."""
    if not slips:
        return None
    return lambda rng: encode(with_slips(texts, slips, rng))


def without_decay(
    parameters: Sequence[Any], learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return AdamW groups in which biases and layer norms, one-dimensional, do not decay."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [{**group, "lr": learning_rate} for group in groups if group["params"]]
