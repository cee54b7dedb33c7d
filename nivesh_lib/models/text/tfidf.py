"""TF-IDF of word and character n-grams with logistic regression."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from safetensors.numpy import save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import SEEDS, TextClassifier, as_training
from nivesh_lib.models.directory import read_json, read_tensors
from nivesh_lib.models.text.hinglish import extended
from nivesh_lib.models.text.linear import linear_weights, softmax
from nivesh_lib.models.text.ngrams import LinearNgrams

_MAX_TERMS = 1_000_000  # each takes about 300 bytes beside its weights
_MAX_WEIGHTS = 2**26


# Of Indic scripts the vowel signs too, which are no letters to \w: it would cut words at them.
_WORD = r"[\w\u0900-\u0963\u0966-\u0dff]+|₹|%|\?"


@dataclass(eq=False, repr=False)
class TfidfClassifier(TextClassifier):
    """Multinomial logistic regression on TF-IDF weights of word and character n-grams.

    Character n-grams inside word boundaries make it robust to typos and to the many spellings of
    romanised Hindi.

    Parameters
    ----------
    C : float
        Inverse regularisation strength of the logistic regression.
    word_ngram_max, char_ngram_max : int
        Longest word and character n-grams; character n-grams start at 2. 0 omits a family.
    min_df : int
        Minimum number of texts that contain an n-gram.
    glosses : bool
        Append English glosses of Hindi words; see `hinglish.extended`.
    balanced : bool
        Weight classes by their inverse frequency.
    random_state : int, optional
        Seed of the solver.

    Examples
    --------
    >>> model = TfidfClassifier().fit(["save tax", "pay rent"] * 3, ["tax", "rent"] * 3)
    >>> model.predict(["taxes"]).tolist()
    ['tax']
    """

    kind: ClassVar[str] = "tfidf"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "C": (1e-9, 1e9),
        "word_ngram_max": (0, 10),
        "char_ngram_max": (0, 20),
        "min_df": (1, 10**9),
        "random_state": SEEDS,
    }

    C: float = 6.0
    word_ngram_max: int = 2
    char_ngram_max: int = 6
    min_df: int = 1
    glosses: bool = True
    balanced: bool = False
    random_state: int | None = 42

    def _check(self) -> None:
        super()._check()
        if self.char_ngram_max == 1:
            raise ValueError("char_ngram_max 1 is too short: character n-grams start at 2; 0 omits")
        if not self.word_ngram_max and not self.char_ngram_max:
            raise ValueError("word_ngram_max and char_ngram_max are both 0; set one of them")

    def _new_vectorizers(self) -> dict[str, TfidfVectorizer]:
        common = {"sublinear_tf": True, "min_df": self.min_df, "dtype": np.float32}
        families = {
            "word": (self.word_ngram_max, 1, {"token_pattern": _WORD}),
            "char": (self.char_ngram_max, 2, {"analyzer": "char_wb"}),
        }
        return {
            name: TfidfVectorizer(ngram_range=(shortest, longest), **common, **options)
            for name, (longest, shortest, options) in families.items()
            if longest
        }

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Fit vocabularies, idf weights and the logistic regression."""
        self._check()
        texts, labels = as_training(X, y)
        self.vectorizers_ = self._new_vectorizers()
        glossed = self._glossed(texts)
        features = sp.hstack(
            [v.fit_transform(glossed) for v in self.vectorizers_.values()], format="csr"
        )
        linear = LogisticRegression(
            C=self.C,
            max_iter=300,
            tol=1e-3,
            class_weight="balanced" if self.balanced else None,
            random_state=self.random_state,
        ).fit(features, labels)
        self.classes_ = linear.classes_
        self.coef_, self.intercept_ = linear_weights(linear)
        self._ngrams = LinearNgrams(self.vectorizers_.values(), self.coef_)
        return self

    def _proba(self, texts: list[str]) -> np.ndarray:
        scores = np.empty((len(texts), len(self.classes_)))
        for row, text in zip(scores, self._glossed(texts), strict=True):
            row[:] = self._ngrams.scores(text)
        return softmax(scores + self.intercept_)

    def _glossed(self, texts: list[str]) -> list[str]:
        return [extended(text) for text in texts] if self.glosses else texts

    def top_terms(self, label: str, n: int = 8) -> list[str]:
        """Return the ``n`` word n-grams with the largest weights for ``label``."""
        row = int(np.flatnonzero(self.classes_ == label)[0])
        names = self.vectorizers_["word"].get_feature_names_out()
        order = np.argsort(-self.coef_[row, : len(names)], kind="stable")[:n]
        return [str(names[i]) for i in order]

    def _dump(self, directory: Path) -> dict[str, Any]:
        tensors = {"coef": self.coef_, "intercept": self.intercept_}
        vocabularies = {}
        for name, vectorizer in self.vectorizers_.items():
            tensors[f"idf_{name}"] = vectorizer.idf_.astype(np.float32)
            vocabularies[name] = vectorizer.get_feature_names_out().tolist()
        save_file(tensors, directory / "weights.safetensors")
        text = json.dumps(vocabularies)
        (directory / "vocabulary.json").write_text(text, encoding="utf-8")
        return {}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        tensors = read_tensors(directory, "weights.safetensors")
        vocabularies = read_json(directory, "vocabulary.json")
        self.vectorizers_ = self._new_vectorizers()
        self._check_state(directory, vocabularies, tensors)
        for name, vectorizer in self.vectorizers_.items():
            vectorizer.vocabulary = {term: i for i, term in enumerate(vocabularies[name])}
            vectorizer.idf_ = tensors[f"idf_{name}"]
        self.coef_, self.intercept_ = tensors["coef"], tensors["intercept"]
        self._ngrams = LinearNgrams(self.vectorizers_.values(), self.coef_)

    def _check_state(self, directory: Path, vocabularies: Any, tensors: dict[str, Any]) -> None:
        """Check that vocabularies and weights fit each other, and memory."""
        lists = [vocabularies[name] for name in self.vectorizers_]
        if not all(isinstance(terms, list) and set(map(type, terms)) <= {str} for terms in lists):
            raise ModelError(f"{directory / 'vocabulary.json'}: no lists of terms. Save it again")
        n_terms, n_classes = sum(map(len, lists)), len(self.classes_)
        if n_terms > _MAX_TERMS or n_terms * n_classes > _MAX_WEIGHTS:
            raise ModelError(
                f"{directory / 'vocabulary.json'}: {n_terms:,} terms for {n_classes} classes; at "
                f"most {_MAX_TERMS:,} and {_MAX_WEIGHTS:,} weights are loaded. Raise min_df"
            )
        expected = {"coef": (n_classes, n_terms), "intercept": (n_classes,)}
        for name, terms in zip(self.vectorizers_, lists, strict=True):
            expected[f"idf_{name}"] = (len(terms),)
        for name, shape in expected.items():
            found = tensors[name]
            if found.shape != shape or found.dtype != np.float32:
                raise ModelError(
                    f"{directory}: its classes and terms do not fit its weights: {name} is "
                    f"{found.dtype} {found.shape}, not float32 {shape}. Save the model again"
                )
