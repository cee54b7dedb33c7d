from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.models.wrappers.ood import OodScorer
from tests.models.conftest import QUERIES, TEXTS, tiny


@pytest.fixture(scope="module")
def scorer():
    return OodScorer(tiny()).fit(TEXTS)


def test_it_is_the_mahalanobis_distance_in_spreads_of_rows_left_out(scorer):
    features = scorer.encoder_.features(QUERIES).astype(float) - scorer.centre_
    inverse = (scorer.whitening_ @ scorer.whitening_.T).astype(float)
    distance = np.einsum("ij,jk,ik->i", features, inverse, features)
    expected = (distance - scorer.mean_) / scorer.std_
    np.testing.assert_allclose(scorer.score(QUERIES), expected, rtol=1e-3)


def test_the_spread_is_that_of_texts_which_the_gaussian_was_fitted_without(scorer):
    texts = [f"{verb} {kind} {n} times" for verb in ("pay", "save") for kind in
             ("tax", "rent", "loan") for n in range(12)]  # fmt: skip
    whole, distances = OodScorer(tiny()).fit(texts), []
    for at, text in enumerate(texts):
        others = OodScorer(tiny()).fit(texts[:at] + texts[at + 1 :])
        distances.append(others.score([text])[0] * others.std_ + others.mean_)
    assert whole.mean_ == pytest.approx(np.mean(distances), rel=0.05)
    assert whole.std_ == pytest.approx(np.std(distances), rel=0.1)


def test_what_was_written_reads_back_as_the_same_distance(scorer, tmp_path):
    state = scorer.dump(tmp_path)
    read = OodScorer(tiny()).restore(tmp_path, state)
    np.testing.assert_allclose(read.score(QUERIES), scorer.score(QUERIES), rtol=1e-6)


def test_exposed_it_is_higher_for_what_is_like_the_texts_outside(scorer, tmp_path):
    outside = ["will it rain in Pune", "play an old song", "who won the match", "rain and a match"]
    exposed = scorer.exposed(TEXTS, outside)
    more = exposed.score([*outside, *TEXTS]) - scorer.score([*outside, *TEXTS])
    assert more[: len(outside)].min() > more[len(outside) :].max()
    assert more[len(outside) :].mean() == pytest.approx(0, abs=1e-3)
    assert more[len(outside) :].std() == pytest.approx(1, abs=1e-3)
    assert scorer.direction_ is None  # the first one stays as it was
    read = OodScorer(tiny()).restore(tmp_path, exposed.dump(tmp_path))
    np.testing.assert_allclose(read.score(QUERIES), exposed.score(QUERIES), rtol=1e-6)


def test_no_texts_have_no_score_and_three_are_too_few_to_learn_from(scorer):
    assert scorer.score([]).shape == (0,)
    with pytest.raises(ValueError, match="3 texts are too few"):
        OodScorer(tiny()).fit(TEXTS[:3])
