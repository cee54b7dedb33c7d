from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import fisher_exact

from nivesh_lib.evaluation.drift import Batch, drift_between, natural_first

CLASSES = ["loan", "save", "tax"]


def batch_of(n, *, seed=0, sure=4.0, shares=(1, 1, 1), words=(3, 12), hindi=0.2, **known):
    """Queries of which a model is ``sure``, and a share is Hindi."""
    rng = np.random.default_rng(seed)
    own = rng.choice(3, n, p=np.array(shares) / sum(shares))
    logits = rng.normal(size=(n, 3)) + sure * np.eye(3)[own]
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    hinglish = rng.random(n) < hindi
    texts = [
        "paisa kitna bachana chahiye " * int(one) + "save " * count
        for one, count in zip(hinglish, rng.integers(*words, n), strict=True)
    ]
    return Batch(texts, proba, **known)


def test_batches_of_one_source_raise_few_alarms():
    alarms = [
        drift_between(batch_of(200, seed=k), batch_of(30, seed=k + 999), CLASSES, n_draws=99).found
        for k in range(300)
    ]
    assert sum(alarms) <= 26  # 5 % of 300 and three standard errors


@pytest.mark.parametrize(
    ("options", "aspect", "what"),
    [
        ({"shares": (1, 1, 6)}, "predicted", "queries taken for tax"),
        ({"sure": 1.0}, "probabilities", "answers surer than "),
        ({"hindi": 0.6}, "language", "queries in hinglish"),
        ({"words": (9, 20)}, "length", "queries of more than "),
    ],
)
def test_what_moved_most_is_named_with_its_shares(options, aspect, what):
    found = drift_between(batch_of(400), batch_of(100, seed=1, **options), CLASSES)
    first = next(one for one in found.changes if one.aspect == aspect)
    assert found.found and first.p <= 0.05 and first.errors >= first.limit
    assert first.what.startswith(what) and abs(first.now - first.before) > 0.15


def test_labels_and_languages_are_compared_where_every_row_of_both_sides_has_them():
    before = dataclasses.replace(batch_of(50), labels=["a", "b"] * 25, languages=["en", "hi"] * 25)
    now = dataclasses.replace(batch_of(20), labels=["a"] * 20, languages=["en"] * 20)
    aspects = {one.aspect: one for one in drift_between(before, now, CLASSES).changes}
    assert aspects["label"].now == 0 and aspects["language"].what == "queries in hi"
    missing = dataclasses.replace(now, labels=None, languages=["en", None] * 10)
    aspects = {one.aspect: one for one in drift_between(before, missing, CLASSES).changes}
    assert "label" not in aspects and aspects["language"].what == "queries in hinglish"


def test_without_a_model_the_texts_alone_are_compared():
    found = drift_between(Batch(batch_of(60).texts), batch_of(60, seed=1), CLASSES)
    assert {one.aspect for one in found.changes} == {"language", "length"}


def test_how_sure_models_of_different_rows_are_is_not_compared():
    sides = batch_of(400), batch_of(200, seed=1, sure=2.0)
    assert drift_between(*sides, CLASSES).found
    assert not drift_between(*sides, CLASSES, same_model=False).found


def test_one_share_alone_has_the_p_value_of_fisher_s_exact_test():
    texts = [["save"] * 30 + ["save now"] * 20, ["save"] * 6 + ["save now"] * 14]
    (change,) = drift_between(*map(Batch, texts), n_draws=20_000).changes
    exact = fisher_exact([[30, 20], [6, 14]]).pvalue
    assert change.p == pytest.approx(exact, abs=0.01)


def test_rows_that_are_all_alike_show_nothing():
    found = drift_between(Batch(["save tax"] * 9), Batch(["save tax"] * 5))
    assert (found.changes, found.found) == ((), False)


def test_the_smallest_change_that_would_show_is_found_four_times_out_of_five():
    told = []
    for seed in range(60):
        before = batch_of(400, seed=seed)
        sizes = drift_between(before, batch_of(100, seed=seed + 100), CLASSES)
        least = next(one.least for one in sizes.changes if one.aspect == "language")
        now = batch_of(100, seed=seed + 200, hindi=0.2 + least)
        told.append(drift_between(before, now, CLASSES).found)
    assert 0.65 <= np.mean(told) <= 0.97  # 80 %, and three standard errors


def test_the_verdict_does_not_depend_on_what_happens_to_be_drawn_elsewhere():
    sides = batch_of(100), batch_of(50, seed=1)
    first = drift_between(*sides, CLASSES)
    np.random.random(7)
    assert drift_between(*sides, CLASSES) == first


def test_a_side_of_one_query_is_refused():
    with pytest.raises(ValueError, match="2 and 1 queries"):
        drift_between(Batch(["a", "b"]), Batch(["a"]))


@pytest.mark.parametrize(
    ("natural", "hard", "kept", "only_hard"),
    [(30, 400, 30, False), (3, 40, 40, True), (3, 2, 3, False), (0, 9, 9, True), (5, 0, 5, False)],
)
def test_natural_rows_come_first(natural, hard, kept, only_hard):
    rows, found = natural_first(np.array(["natural", None] * natural + ["hard"] * hard)[natural:])
    assert (rows.sum(), found) == (kept, only_hard)
