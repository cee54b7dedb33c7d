"""A baseline of regular expressions, hand-written or mined from the training rows."""

from __future__ import annotations

import json
import math
import re
import time
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import regex

from nivesh_lib.errors import ModelError
from nivesh_lib.models.base import SEEDS, TextClassifier, as_texts, as_training, prepare
from nivesh_lib.models.directory import read_json

_INVALID = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
_MAX_RULES = 10_000
_MAX_PATTERN = 2_000  # characters of a pattern
_MAX_REPEATS = 1_000  # product of counts inside each other, such as 20 for (a{2}){10}
_MAX_WRITTEN_OUT = 4_000_000  # characters of all patterns with their counts written out; 0.3 GB
_ESCAPED = re.compile(r"\\[pPN]\{[^}]*\}|\\.", re.DOTALL)
_BRACES = re.compile(r"\{([^{}]*)\}")
_FUZZY = re.compile(r"[<=:+]|^[\s\deids,]*$")  # what is no count in braces, but no literal either
_VERBOSE = re.compile(r"\(\?[a-zA-Z0-9-]*x")  # white space and comments may hide what is counted
_RECURSION = re.compile(r"\(\?(R|&|P>|[+-]?\d)")
_MAX_CHARACTERS = 2_000  # of a text; bounds the cost of long input
_TIMEOUT_S = 1.0  # for all patterns on one text; without backtracking they take microseconds


@dataclass(eq=False, repr=False)
class RulesClassifier(TextClassifier):
    """Score each label by the weights of the patterns that match a text.

    Parameters
    ----------
    rules_file : str, optional
        TOML file of ``[[rule]]`` tables with ``label``, ``pattern`` (a regular
        expression, case-insensitive) and ``weight``. Without it, keywords are mined from the
        training rows; see `mine_keywords`.
    n_keywords : int
        Mined keywords for each label.
    prior_weight : float
        Weight of the label frequencies, relative to one match of weight 1.
    random_state : int, optional
        Unused; part of the common contract.

    Examples
    --------
    >>> model = RulesClassifier().fit(["save tax", "pay rent"], ["tax", "rent"])
    >>> model.predict(["how to save on tax?"]).tolist()
    ['tax']
    """

    kind: ClassVar[str] = "rules"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "n_keywords": (0, 10_000),
        "prior_weight": (0.0, 1e9),
        "random_state": SEEDS,
    }

    rules_file: str | None = None
    n_keywords: int = 12
    prior_weight: float = 0.1
    random_state: int | None = None

    def fit(self, X: Iterable[str], y: Iterable[str]) -> Self:
        """Read or mine the rules and estimate the label frequencies."""
        self._check()
        texts, labels = as_training(X, y)
        self.classes_, counts = np.unique(labels, return_counts=True)
        self.prior_ = counts / counts.sum()
        rules = (
            read_rules(Path(self.rules_file))
            if self.rules_file
            else mine_keywords(texts, labels, n_keywords=self.n_keywords)
        )
        known = set(self.classes_)
        self._set_rules([rule for rule in rules if rule["label"] in known])
        return self

    def _set_rules(self, rules: list[dict[str, Any]]) -> None:
        self.rules_ = rules
        column = {label: i for i, label in enumerate(self.classes_)}
        self._compiled = [
            (
                regex.compile(rule["pattern"], regex.IGNORECASE),
                column[rule["label"]],
                rule["weight"],
            )
            for rule in rules
        ]

    def _proba(self, texts: list[str]) -> np.ndarray:
        """Return each label's share of the matched weight, shape (n, n_classes)."""
        # Above 0, so that a text without a match still has a prediction.
        scores = np.tile(self.prior_ * max(self.prior_weight, 1e-9), (len(texts), 1))
        for row, text in enumerate(texts):
            deadline = time.thread_time() + _TIMEOUT_S
            for pattern, column, weight in self._compiled:
                if _matches(pattern, text, deadline):
                    scores[row, column] += weight
        return scores / scores.sum(axis=1, keepdims=True)

    def coverage(self, X: Iterable[str]) -> np.ndarray:
        """Return a boolean mask (n,) of the texts that match at least one rule."""
        texts = [prepare(text) for text in as_texts(X)]
        found = []
        for text in texts:
            deadline = time.thread_time() + _TIMEOUT_S
            found.append(any(_matches(one, text, deadline) for one, _, _ in self._compiled))
        return np.array(found, dtype=bool)

    def _dump(self, directory: Path) -> dict[str, Any]:
        text = json.dumps(self.rules_, ensure_ascii=False, indent=1)
        (directory / "rules.json").write_text(text, encoding="utf-8")
        return {"prior": self.prior_.tolist()}

    def _restore(self, directory: Path, state: dict[str, Any]) -> None:
        self.prior_ = np.array(state["prior"], dtype=np.float64)
        path = directory / "rules.json"
        if self.prior_.shape != self.classes_.shape or not (self.prior_ > 0).all():
            raise ModelError(
                f"{directory}: its classes do not fit its weights: each needs a frequency above 0. "
                "Save the model again"
            )
        rules = _checked(path, read_json(directory, path.name))
        strange = {rule["label"] for rule in rules} - set(self.classes_)
        if strange:
            raise ModelError(
                f"{directory}: its classes do not fit its rules: no such label: "
                f"{min(strange)!r:.60}. Save the model again"
            )
        self._set_rules(rules)


def _matches(pattern: Any, text: str, deadline: float) -> bool:
    left = max(deadline - time.thread_time(), 1e-3)
    try:
        return bool(pattern.search(text[:_MAX_CHARACTERS], timeout=left))
    except TimeoutError:
        raise ModelError(
            f"pattern {pattern.pattern!r} took more than {_TIMEOUT_S:g} s on one text. "
            "Rewrite it without repeats inside repeats, such as (a+)+"
        ) from None


def read_rules(path: Path) -> list[dict[str, Any]]:
    """Return the rules of a TOML file as dicts of ``label``, ``pattern``, ``weight``.

    Raises
    ------
    ModelError
        The file is missing or a rule is invalid; the message names it.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("rule", [])
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as rules ({error})") from None
    rules = _checked(path, tables)
    if not rules:
        raise ModelError(f"{path}: no [[rule]] in it. Remove the file to have keywords mined")
    return rules


def _checked(path: Path, tables: Any) -> list[dict[str, Any]]:
    """Return the rules of a file with their default weights; ModelError names one that is wrong."""
    if not isinstance(tables, list) or len(tables) > _MAX_RULES:
        raise ModelError(f"{path}: no list of at most {_MAX_RULES:,} rules")
    rules: list[dict[str, Any]] = []
    written_out = 0
    for number, table in enumerate(tables, start=1):
        try:
            written_out += _check_pattern(table["pattern"])
            if written_out > _MAX_WRITTEN_OUT:
                raise ValueError(
                    f"with their counts written out, the patterns up to here have {written_out:,} "
                    f"characters; {_MAX_WRITTEN_OUT:,} may"
                )
            regex.compile(table["pattern"])
            rule = {
                "label": table["label"],
                "pattern": table["pattern"],
                "weight": float(table.get("weight", 1.0)),
            }
            if not 0 < rule["weight"] < math.inf:
                raise ValueError(f"weight {rule['weight']:g} is not above 0 and finite")
            if not isinstance(rule["label"], str):
                raise TypeError("the label is no text")
        except (*_INVALID, regex.error) as error:
            raise ModelError(
                f"{path}, rule {number}: {error!r}. See data/intents/rules.toml"
            ) from None
        rules.append(rule)
    return rules


def _check_pattern(pattern: str) -> int:
    """Raise ValueError for what can fill memory before the time limit is looked at.

    Returns the pattern's length with its counts written out, or more.
    """
    if len(pattern) > _MAX_PATTERN:
        raise ValueError(f"the pattern has more than {_MAX_PATTERN:,} characters")
    bare = _ESCAPED.sub("", pattern)
    verbose = bool(_VERBOSE.search(bare))
    groups = single = 1  # only counts of groups can have others inside them
    for braces in _BRACES.finditer(bare):
        inside = braces[1]
        if re.search(r"[^\d, ]", inside):
            if verbose or _FUZZY.search(inside):
                raise ValueError(f"{{{inside}}} in the pattern is no count")
            continue  # braces that stand for themselves
        count = max([1, *map(int, re.findall(r"\d{1,9}", inside))])
        if verbose or bare[: braces.start()].endswith(tuple(")}+*?")):
            groups *= count
        else:
            single = max(single, count)
    if groups * single > _MAX_REPEATS:
        raise ValueError(
            f"the pattern repeats up to {groups * single:,} times; {_MAX_REPEATS:,} may"
        )
    if _RECURSION.search(bare):
        raise ValueError("the pattern calls itself")
    return len(pattern) * groups * single


def mine_keywords(texts: list[str], labels: np.ndarray, *, n_keywords: int) -> list[dict[str, Any]]:
    """Return rules for the ``n_keywords`` unigrams and bigrams most typical of each label.

    Terms that are more frequent inside the label than outside are ranked by the chi-squared
    statistic of presence against the label (Manning, Raghavan and Schütze 2008, section 13.5.2).
    A term's weight, in (0, 1], is the share of its texts that carry the label.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.feature_selection import chi2

    vectorizer = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"(?u)\b\w+\b")
    try:
        presence = vectorizer.fit_transform(texts)
    except ValueError:  # no text has a word
        return []
    terms = vectorizer.get_feature_names_out()
    rules = []
    most = _MAX_RULES // len(np.unique(labels))  # a model with more rules could not be loaded
    for label in np.unique(labels):
        inside = labels == label
        statistic, _ = chi2(presence, inside)
        share = np.asarray(presence[inside].mean(axis=0)).ravel()
        purity = np.asarray(presence[inside].sum(axis=0) / presence.sum(axis=0)).ravel()
        statistic = np.where(purity > inside.mean(), statistic * (share > 0), 0.0)
        for index in np.argsort(-statistic, kind="stable")[: min(n_keywords, most)]:
            words = r"\W+".join(map(re.escape, terms[index].split()))
            pattern = rf"\b{words}\b"
            if statistic[index] > 0 and len(pattern) <= _MAX_PATTERN:
                rules.append({"label": label, "pattern": pattern, "weight": float(purity[index])})
    return rules
