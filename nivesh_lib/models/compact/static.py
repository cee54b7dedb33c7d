"""A linear classifier on tables of token and hashed n-gram scores, without an encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from safetensors.numpy import save_file
from threadpoolctl import threadpool_limits

from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import SEEDS, TextClassifier, as_training
from nivesh_lib.models.compact.hashing import (
    TextIndices,
    bigram_buckets,
    hashed_char_ngrams,
    hashed_token_ngrams,
    token_buckets,
)
from nivesh_lib.models.compact.quantize import dequantize_rows, quantize_rows
from nivesh_lib.models.compact.vocabulary import prune_unreachable, read_tokenizer, write_tokenizer
from nivesh_lib.models.directory import read_tensors
from nivesh_lib.models.neural.backbones import find_backbone, input_embeddings
from nivesh_lib.models.neural.distillation import DistillationTargets, distillation_loss
from nivesh_lib.models.neural.tokenizer import SubwordTokenizer
from nivesh_lib.models.text.hinglish import glossed
from nivesh_lib.models.text.linear import softmax

_SIF = 1e-4  # parameter of smooth inverse frequency weights (Arora et al. 2017)
_MAX_STEPS = 60  # of L-BFGS; 200 change two predictions of a thousand
_BLOCK = 64  # texts of one table lookup
_MAX_WEIGHTS = 2**26  # a byte each in the file, four in memory
_MAX_WORDS = 2**14  # that are kept with their scores; some 10 MB for 14 classes
_FAMILIES = ("vectors", "letters", "words")


@dataclass(eq=False, repr=False)
class StaticClassifier(TextClassifier):
    """Logistic regression on mean token embeddings and hashed n-grams, as three int8 tables.

    The embeddings are a backbone's input embeddings, frequent tokens weighted down (sentence
    vectors of Arora et al. 2017; Tulkens and van Dongen 2024 distil encoders to such a table), so
    that unseen words lie near seen ones. Character n-grams inside words, token unigrams and token
    bigrams have weights of their own in hashed buckets (Weinberger et al. 2009), scaled by inverse
    document frequency; they cover typos, names and phrases. As the model is linear, each token and
    bucket is stored as one int8 score per class, and prediction is lookup and addition in numpy.

    Parameters
    ----------
    backbone : str
        Whose tokenizer and input embeddings are used; see `backbones.find_backbone`.
    C : float
        Inverse regularisation strength.
    buckets : int
        Buckets of character n-grams, and as many of token n-grams; a power of two. Each takes one
        byte per class, and so does each token.
    label_smoothing : float
        Of the cross-entropy.
    glosses : bool
        Replace Hindi words by English glosses; see `hinglish.glossed`.
    max_length : int
        Maximum number of tokens; longer texts are truncated.
    random_state : int, optional
        Unused: the loss is convex, and L-BFGS starts from zeros.

    Examples
    --------
    >>> model = StaticClassifier().fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    >>> model.predict(["income tax"]).tolist()
    ['tax']
    """

    kind: ClassVar[str] = "static"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "C": (1e-9, 1e9),
        "buckets": (2, 2**22),
        "label_smoothing": (0.0, 1.0),
        "max_length": (3, 16_384),
        "random_state": SEEDS,
    }

    backbone: str = "minilm"
    C: float = 30.0
    buckets: int = 32768
    label_smoothing: float = 0.1
    glosses: bool = True
    max_length: int = 128
    random_state: int | None = 42

    def _check(self) -> None:
        super()._check()
        if self.buckets & (self.buckets - 1):
            raise ValueError(f"buckets {self.buckets!r} is no power of two")

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fit on the labels.

        Raises
        ------
        ValueError
            An argument is out of range, or ``buckets`` is not a power of two.
        """
        return self._fit(X, y, None)

    def fit_distilled(self, targets: DistillationTargets) -> Self:
        """Fit on a teacher's predictions and the labels; raises as `fit`."""
        return self._fit(targets.texts, targets.labels, targets)

    def _fit(
        self, X: Iterable[str], y: Iterable[str], distillation: DistillationTargets | None
    ) -> Self:
        self._check()
        texts, labels = as_training(X, y)
        folder = find_backbone(self.backbone)
        self.classes_, targets = np.unique(labels, return_inverse=True)
        tokenizer = SubwordTokenizer.from_folder(folder)
        self._tokenizer, kept = prune_unreachable(tokenizer)
        indices = self._indices(texts)
        vectors = _weighted(input_embeddings(folder).numpy(), tokenizer)[kept]
        tokens = indices["vectors"]
        means = tokens.matrix(len(vectors)) @ vectors / _norm("vectors", tokens.counts)
        letters, words = (
            _WeightedNgrams.of(indices[name], self.buckets) for name in ("letters", "words")
        )
        scale = _unit(np.square(means).sum(axis=1))
        weights = self._solve(means * scale, [letters, words], targets, distillation)
        tables = {
            "vectors": (vectors * scale) @ weights["vectors"],
            "letters": letters.table(weights["letters"]),
            "words": words.table(weights["words"]),
        }
        self._quantize(tables, weights["bias"])
        return self

    def _solve(
        self,
        means: np.ndarray,
        ngrams: Sequence[_WeightedNgrams],
        targets: np.ndarray,
        distillation: DistillationTargets | None,
    ) -> dict[str, np.ndarray]:
        """Return the weights of each family of features, and the bias, with the least loss."""
        import torch
        from torch.nn import functional

        classes, target, teacher = len(self.classes_), torch.from_numpy(targets), None
        if distillation is not None:
            teacher = torch.from_numpy(np.asarray(distillation.logits, np.float32))
        features = dict(zip(_FAMILIES, [means, *(one.features for one in ngrams)], strict=True))
        weights = {name: torch.zeros(x.shape[1], classes) for name, x in features.items()}
        weights["bias"] = torch.zeros(classes)
        values = {name: weight.numpy() for name, weight in weights.items()}  # the same memory
        optimizer = torch.optim.LBFGS(
            list(weights.values()),
            max_iter=_MAX_STEPS,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Any:
            scores = sum((x @ values[name] for name, x in features.items()), values["bias"])
            logits = torch.from_numpy(scores).requires_grad_()
            if distillation is None or teacher is None:
                value = functional.cross_entropy(
                    logits, target, label_smoothing=self.label_smoothing
                )
            else:
                temperature, alpha = distillation.temperature, distillation.alpha
                value = distillation_loss(logits, teacher, target, temperature, alpha=alpha)
            # Autograd ends at the logits: the rest is linear, with fast sparse products.
            (gradient,) = torch.autograd.grad(value, logits)
            decay = 1 / (self.C * len(target))
            for name, x in features.items():
                weights[name].grad = torch.from_numpy(x.T @ gradient.numpy() + decay * values[name])
            weights["bias"].grad = gradient.sum(dim=0)
            size = sum(weights[name].square().sum() for name in _FAMILIES)
            return value.detach() + decay * size / 2

        # NumPy's threads and torch's would wait for each other in each step, for most of the time.
        with threadpool_limits(1, user_api="blas"):
            optimizer.step(loss)
        return values

    def _quantize(self, tables: dict[str, np.ndarray], bias: np.ndarray) -> None:
        """Set the int8 tables from scores (rows, classes) of tokens and of buckets."""
        self._tensors = {"bias": bias}
        for name, table in tables.items():
            values, scales = quantize_rows(table)
            self._tensors |= {f"{name}.steps": values, f"{name}.scales": scales[:, 0]}
        self._dequantize()

    def _dequantize(self) -> None:
        held = self._tensors
        self._tables = {
            name: dequantize_rows(held[f"{name}.steps"], held[f"{name}.scales"][:, None])
            for name in _FAMILIES
        }
        self._words: dict[str, _Word] = {}
        self._ends = self._tokenizer.encode([""], self.max_length)[0].tolist()
        # Where a tokenizer splits at white space, tokens of a text are those of its words.
        self._by_word = self._tokenizer.splits_words and len(self._ends) == 2

    def _indices(self, texts: Sequence[str]) -> dict[str, TextIndices]:
        """Return the table rows of each text; n-grams are of the original and the glossed text."""
        variants = [
            list(dict.fromkeys([text, glossed(text)])) if self.glosses else [text] for text in texts
        ]
        sizes = [len(one) for one in variants]
        ids = self._tokenizer.encode(list(chain.from_iterable(variants)), self.max_length)
        return {
            "vectors": TextIndices.of([ids[end - 1] for end in accumulate(sizes)]),
            "letters": hashed_char_ngrams([" ".join(one) for one in variants], self.buckets),
            "words": hashed_token_ngrams(ids, self.buckets).merged(sizes),
        }

    def _proba(self, texts: list[str]) -> np.ndarray:
        if len(texts) == 1:
            return softmax(self._logits_of_one(texts[0]))
        starts = range(0, len(texts), _BLOCK)
        return softmax(np.concatenate([self._logits(texts[at : at + _BLOCK]) for at in starts]))

    def _logits(self, texts: Sequence[str]) -> np.ndarray:
        return self._tensors["bias"] + sum(
            indices.sums(self._tables[name]) / _norm(name, indices.counts)
            for name, indices in self._indices(texts).items()
        )

    def _logits_of_one(self, text: str) -> np.ndarray:
        """Return `_logits` of one text, (1, classes), from what its words add to the scores.

        The families add up word by word, but for bigrams of tokens, and words come again.
        """
        if not (self._by_word and text.isprintable() and text.strip()):
            return self._logits([text])
        variants = dict.fromkeys([text, glossed(text)] if self.glosses else [text])
        parts = [[self._word(word) for word in variant.split()] for variant in variants]
        first, last = self._ends
        ids = [[first, *chain.from_iterable(word.ids for word in part), last] for part in parts]
        if max(map(len, ids)) > self.max_length:
            return self._logits([text])
        words = list(chain.from_iterable(parts))
        sums = np.add.reduce([word.scores for word in words])
        if len(parts) > 1:  # embeddings are those of the glossed text alone
            sums[0] = np.add.reduce([word.scores[0] for word in parts[-1]])
        for one in ids:
            sums[2] += self._tables["words"].take(bigram_buckets(one, self.buckets), axis=0).sum(0)
        letters = sum(word.n_letters for word in words)
        tokens = sum(2 * len(one) - 3 for one in ids)
        weights = np.array([1 / len(ids[-1]), letters**-0.5, tokens**-0.5], np.float32)
        scores: np.ndarray = self._tensors["bias"] + weights @ sums
        return scores[None]

    def _word(self, text: str) -> _Word:
        """Return what one word adds, kept for the next text that has it."""
        if (word := self._words.get(text)) is None:
            ids = self._tokenizer.encode([text], self.max_length)[0][1:-1]
            letters = hashed_char_ngrams([text], self.buckets).rows
            rows = {"vectors": ids, "letters": letters, "words": token_buckets(ids, self.buckets)}
            sums = [self._tables[name].take(rows[name], axis=0).sum(axis=0) for name in _FAMILIES]
            word = _Word(ids.tolist(), len(letters), np.stack(sums))
            if len(self._words) >= _MAX_WORDS:
                self._words.clear()
            self._words[text] = word
        return word

    def _dump(self, directory: Path) -> dict[str, Any]:
        write_tokenizer(self._tokenizer, directory)
        save_file(self._tensors, directory / "weights.safetensors")
        return {}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        self._tokenizer = read_tokenizer(directory)
        self._tensors = read_tensors(directory, "weights.safetensors")
        self._check_tensors(directory)
        self._dequantize()

    def _check_tensors(self, directory: Path) -> None:
        """Check that the tables fit the tokenizer, the buckets and the classes, and memory."""
        n_classes = len(self.classes_)
        expected: dict[str, tuple[str, tuple[int, ...]]] = {"bias": ("float32", (n_classes,))}
        for name in _FAMILIES:
            rows = self._tokenizer.vocabulary_size if name == "vectors" else self.buckets
            expected[f"{name}.steps"] = ("int8", (rows, n_classes))
            expected[f"{name}.scales"] = ("float16", (rows,))
        found = {name: (str(array.dtype), array.shape) for name, array in self._tensors.items()}
        wrong = [name for name in sorted(expected | found) if expected.get(name) != found.get(name)]
        if wrong:
            name = wrong[0]
            raise ModelError(
                f"{directory}: its classes, tokens and buckets do not fit its weights: {name} is "
                f"{found.get(name)}, not {expected.get(name)}. Save the model again"
            )
        if sum(array.size for array in self._tensors.values()) > _MAX_WEIGHTS:
            raise ModelError(f"{directory}: more than {_MAX_WEIGHTS:,} weights. Take fewer buckets")


class _Word(NamedTuple):
    """A word's token ids, its number of character n-grams, and sums (families, classes)."""

    ids: list[int]
    n_letters: int
    scores: np.ndarray


@dataclass(frozen=True)
class _WeightedNgrams:
    """TF-IDF features of hashed n-grams in the training rows.

    ``features`` is sparse (rows, columns), one column for each bucket in ``seen`` (columns,);
    ``weights`` float32 (buckets,) are the scaled inverse document frequencies.
    """

    features: Any
    seen: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, indices: TextIndices, buckets: int) -> _WeightedNgrams:
        """Weight buckets by idf, scaled so that rows have unit length on average."""
        features = indices.matrix(buckets)
        frequency = np.bincount(features.indices, minlength=buckets)
        idf = np.log((1 + len(indices.counts)) / (1 + frequency)) + 1  # as TfidfVectorizer
        scale = _unit(indices.sums(np.square(idf)) / indices.counts)
        weights = (scale * idf).astype(np.float32)
        lengths = np.sqrt(indices.counts, dtype=np.float32).repeat(np.diff(features.indptr))
        features.data *= weights[features.indices] / lengths
        seen = np.flatnonzero(frequency)
        return cls(features[:, seen], seen, weights)

    def table(self, weights: np.ndarray) -> np.ndarray:
        """Return the scores (buckets, classes), given the weights (columns, classes)."""
        full = np.zeros((len(self.weights), weights.shape[1]), np.float32)
        full[self.seen] = self.weights[self.seen, None] * weights
        return full


def _norm(family: str, counts: np.ndarray) -> np.ndarray:
    """Return the divisors of sums, (texts, 1): counts for means, else their square roots."""
    return (counts if family == "vectors" else np.sqrt(counts)).astype(np.float32)[:, None]


def _weighted(vectors: np.ndarray, tokenizer: SubwordTokenizer) -> np.ndarray:
    """Return centred embeddings with smooth inverse frequency weights, float32.

    Vocabularies are sorted by frequency, which is estimated from the rank by Zipf's law. Special
    tokens get zeros.
    """
    share = 1 / np.arange(2, len(vectors) + 2)
    weight = _SIF / (_SIF + share / share.sum())
    weight[tokenizer.special_ids()] = 0.0
    return ((vectors - vectors.mean(axis=0)) * weight[:, None]).astype(np.float32)


def _unit(squares: Sequence[float] | np.ndarray) -> np.float32:
    """Return the factor that scales rows of these squared lengths to unit length on average."""
    return np.float32(1 / max(float(np.mean(squares)), 1e-12) ** 0.5)
