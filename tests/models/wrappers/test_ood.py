from __future__ import annotations

import numpy as np
import pytest

from nivesh_lib.models.wrappers.ood import Surprise
from tests.models.conftest import QUERIES, TEXTS, tiny


@pytest.fixture(scope="module")
def known():
    return Surprise(tiny()).fit(TEXTS)


def test_it_is_the_mahalanobis_distance_in_spreads_of_rows_left_out(known):
    features = known.encoder_.features(QUERIES).astype(float) - known.centre_
    inverse = (known.whitening_ @ known.whitening_.T).astype(float)
    distance = np.einsum("ij,jk,ik->i", features, inverse, features)
    expected = (distance - known.usual_) / known.spread_
    np.testing.assert_allclose(known.of(QUERIES), expected, rtol=1e-3)


def test_what_was_written_reads_back_as_the_same_distance(known, tmp_path):
    state = known.dump(tmp_path)
    read = Surprise(tiny()).restore(tmp_path, state)
    np.testing.assert_allclose(read.of(QUERIES), known.of(QUERIES), rtol=1e-6)


def test_no_texts_have_no_surprise_and_three_are_too_few_to_learn_from(known):
    assert known.of([]).shape == (0,)
    with pytest.raises(ValueError, match="3 texts are too few"):
        Surprise(tiny()).fit(TEXTS[:3])
