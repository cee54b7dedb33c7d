"""A classifier that looks pieces of a text up in tables: no encoder, no torch when it answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from nivesh_lib.models.base import TextClassifier, as_training
from nivesh_lib.models.compact.hashing import Bags, letter_bags, piece_bags
from nivesh_lib.models.compact.quantize import from_rounded, rounded_rows
from nivesh_lib.models.compact.vocabulary import load_packed, reachable, save_packed
from nivesh_lib.models.neural.backbones import find_backbone
from nivesh_lib.models.neural.distillation import Teaching, distillation_loss
from nivesh_lib.models.neural.tokenizer import WordPieces
from nivesh_lib.models.text.hinglish import glossed
from nivesh_lib.models.text.linear import softmax

_COMMON = 1e-4  # share of all words from which on a piece counts less (Arora et al. 2017)
_STEPS = 60  # of L-BFGS, at most; 200 change two answers of a thousand
_BLOCK = 64  # texts whose rows are looked up at once
_FAMILIES = ("vectors", "letters", "words")


class StaticClassifier(TextClassifier):
    """Logistic regression on the mean word-piece vector and on hashed n-grams, as three tables.

    The vectors are the backbone's input vectors, common pieces weighed down (the sentence vectors
    of Arora et al. 2017; Tulkens and van Dongen 2024 cut encoders down to such a table), so that
    words of no training row lie beside those of some. Character n-grams inside words, single
    pieces and pairs of pieces get weights of their own, in buckets that they hash to (Weinberger
    et al. 2009), weighed by how rare they are: these read typos, names and phrases. Since all of
    it is linear, what is kept of a piece or bucket is one int8 score for each class. Answering is
    looking up and adding, in numpy.

    Parameters
    ----------
    backbone : str
        Whose word pieces and vectors are used; see `backbones.find_backbone`.
    C : float
        Inverse regularisation strength.
    buckets : int
        Places for character n-grams, and as many for pieces and their pairs; a power of two. Each
        takes a byte for each class, and so does each word piece.
    label_smoothing : float
        Of the cross-entropy.
    glosses : bool
        Read the Hindi words of a text in English; see `hinglish.glossed`.
    max_length : int
        Word pieces of a text that are read.
    random_state : int, optional
        Not used: there is one best fit, and the search for it starts from zeros.

    Examples
    --------
    >>> model = StaticClassifier().fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    >>> model.predict(["income tax"]).tolist()
    ['tax']
    """

    kind: ClassVar[str] = "static"

    def __init__(
        self,
        backbone: str = "minilm",
        C: float = 30.0,
        buckets: int = 32768,
        label_smoothing: float = 0.1,
        glosses: bool = True,
        max_length: int = 128,
        random_state: int | None = 42,
    ) -> None:
        self.backbone = backbone
        self.C = C
        self.buckets = buckets
        self.label_smoothing = label_smoothing
        self.glosses = glosses
        self.max_length = max_length
        self.random_state = random_state

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Learn from the labels alone."""
        return self.fit_taught(X, y, None)

    def fit_taught(self, X: Iterable[str], y: Iterable[str], teaching: Teaching | None) -> Self:
        """Learn from the labels and, where there is one, from what a teacher said of each row.

        Raises
        ------
        ValueError
            ``buckets`` is no power of two, or ``C`` not above 0.
        """
        if self.buckets < 2 or self.buckets & (self.buckets - 1):
            raise ValueError(f"buckets {self.buckets!r} is no power of two")
        if not 0 < self.C < float("inf"):
            raise ValueError(f"C {self.C!r} is not above 0 and finite")
        texts, labels = as_training(X, y)
        folder = find_backbone(self.backbone)
        self.classes_, targets = np.unique(labels, return_inverse=True)
        whole = WordPieces.from_folder(folder)
        self._pieces, kept = reachable(whole)
        read = self._read(texts)
        vectors = _weighted(_input_vectors(folder), whole)[kept]
        pieces = read["vectors"]
        means = pieces.matrix(len(vectors)) @ vectors / _size("vectors", pieces.counts)
        letters, words = (_Weighed.of(read[name], self.buckets) for name in ("letters", "words"))
        scale = _unit(np.square(means).sum(axis=1))
        weights = self._solve(means * scale, [letters, words], targets, teaching)
        tables = {
            "vectors": (vectors * scale) @ weights["vectors"],
            "letters": letters.table(weights["letters"]),
            "words": words.table(weights["words"]),
        }
        self._take(tables, weights["bias"])
        return self

    def _solve(
        self,
        means: np.ndarray,
        bags: Sequence[_Weighed],
        targets: np.ndarray,
        teaching: Teaching | None,
    ) -> dict[str, np.ndarray]:
        """Return the weights of each family of features, and the bias, that fit the rows best."""
        import torch
        from torch.nn import functional

        classes, target, theirs = len(self.classes_), torch.from_numpy(targets), None
        if teaching is not None:
            theirs = torch.from_numpy(np.asarray(teaching.logits, np.float32))
        features = dict(zip(_FAMILIES, [means, *(bag.features for bag in bags)], strict=True))
        weights = {name: torch.zeros(x.shape[1], classes) for name, x in features.items()}
        weights["bias"] = torch.zeros(classes)
        values = {name: weight.numpy() for name, weight in weights.items()}  # the same memory
        search = torch.optim.LBFGS(
            list(weights.values()), max_iter=_STEPS, history_size=10, line_search_fn="strong_wolfe"
        )

        def loss() -> Any:
            scores = sum((x @ values[name] for name, x in features.items()), values["bias"])
            logits = torch.from_numpy(scores).requires_grad_()
            if teaching is None or theirs is None:
                wrong = functional.cross_entropy(
                    logits, target, label_smoothing=self.label_smoothing
                )
            else:
                wrong = distillation_loss(
                    logits, theirs, target, teaching.temperature, alpha=teaching.alpha
                )
            # torch goes back to the logits; below them all is linear, and sparse products are fast.
            (slope,) = torch.autograd.grad(wrong, logits)
            decay = 1 / (self.C * len(target))
            for name, x in features.items():
                weights[name].grad = torch.from_numpy(x.T @ slope.numpy() + decay * values[name])
            weights["bias"].grad = slope.sum(dim=0)
            size = sum(weights[name].square().sum() for name in _FAMILIES)
            return wrong.detach() + decay * size / 2

        search.step(loss)
        return values

    def _take(self, tables: dict[str, np.ndarray], bias: np.ndarray) -> None:
        """Take scores of pieces and of buckets, (rows, classes) each, as they come out of int8."""
        self._tensors = {"bias": bias}
        for name, table in tables.items():
            steps, scales = rounded_rows(table)
            self._tensors |= {f"{name}.steps": steps, f"{name}.scales": scales[:, 0]}
        self._unpack()

    def _unpack(self) -> None:
        held = self._tensors
        self._tables = {
            name: from_rounded(held[f"{name}.steps"], held[f"{name}.scales"][:, None])
            for name in _FAMILIES
        }

    def _read(self, texts: Sequence[str]) -> dict[str, Bags]:
        """Return what is looked up in each table; n-grams are those of both readings of a text."""
        readings = [
            list(dict.fromkeys([text, glossed(text)])) if self.glosses else [text] for text in texts
        ]
        sizes = [len(one) for one in readings]
        ids = self._pieces.encode(list(chain.from_iterable(readings)), self.max_length)
        return {
            "vectors": Bags.of([ids[end - 1] for end in accumulate(sizes)]),
            "letters": letter_bags([" ".join(one) for one in readings], self.buckets),
            "words": piece_bags(ids, self.buckets).joined(sizes),
        }

    def _proba(self, texts: list[str]) -> np.ndarray:
        starts = range(0, len(texts), _BLOCK)
        return softmax(np.concatenate([self._logits(texts[at : at + _BLOCK]) for at in starts]))

    def _logits(self, texts: Sequence[str]) -> np.ndarray:
        return self._tensors["bias"] + sum(
            bags.sums(self._tables[name]) / _size(name, bags.counts)
            for name, bags in self._read(texts).items()
        )

    def _dump(self, directory: Path) -> dict[str, Any]:
        from safetensors.numpy import save_file

        save_packed(self._pieces, directory)
        save_file(self._tensors, directory / "weights.safetensors")
        return {}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        from safetensors.numpy import load_file

        self._pieces = load_packed(directory)
        self._tensors = load_file(directory / "weights.safetensors")
        self._unpack()


@dataclass(frozen=True)
class _Weighed:
    """What n-grams count in training rows.

    ``features`` is sparse, (rows, columns), with a column for each bucket that was seen, ``seen``;
    ``weights`` float32 (buckets,) is what a bucket weighs.
    """

    features: Any
    seen: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, bags: Bags, buckets: int) -> _Weighed:
        """Weigh buckets by how rare they are, and all of them so that rows have length one."""
        features = bags.matrix(buckets)
        found = np.bincount(features.indices, minlength=buckets)
        rare = np.log((1 + len(bags.counts)) / (1 + found)) + 1  # as TfidfVectorizer does
        scale = _unit(bags.sums(np.square(rare)) / bags.counts)
        weights = (scale * rare).astype(np.float32)
        lengths = np.sqrt(bags.counts, dtype=np.float32).repeat(np.diff(features.indptr))
        features.data *= weights[features.indices] / lengths
        seen = np.flatnonzero(found)
        return cls(features[:, seen], seen, weights)

    def table(self, weights: np.ndarray) -> np.ndarray:
        """Return what each bucket says of each class, given the weights of the columns above."""
        full = np.zeros((len(self.weights), weights.shape[1]), np.float32)
        full[self.seen] = self.weights[self.seen, None] * weights
        return full


def _size(family: str, counts: np.ndarray) -> np.ndarray:
    """Return by what sums are divided, (texts, 1): a mean of vectors, n-grams of length one."""
    return (counts if family == "vectors" else np.sqrt(counts)).astype(np.float32)[:, None]


def _input_vectors(folder: Path) -> np.ndarray:
    from nivesh_lib.models.neural.lstm import input_vectors

    return input_vectors(folder).numpy()


def _weighted(vectors: np.ndarray, pieces: WordPieces) -> np.ndarray:
    """Return the vectors about their mean, float32, common pieces weighed less.

    Vocabularies are sorted by frequency, which Zipf's law then tells. Pieces that stand for no
    word, such as the first and the last of every text, get zeros.
    """
    share = 1 / np.arange(2, len(vectors) + 2)
    weight = _COMMON / (_COMMON + share / share.sum())
    weight[pieces.special()] = 0.0
    return ((vectors - vectors.mean(axis=0)) * weight[:, None]).astype(np.float32)


def _unit(squares: Sequence[float] | np.ndarray) -> np.float32:
    """Return the factor that makes rows of these squared lengths one long on average."""
    return np.float32(1 / max(float(np.mean(squares)), 1e-12) ** 0.5)
