from __future__ import annotations

import pytest

from nivesh_lib.data.schema import conflicting_rows, normalise


@pytest.mark.parametrize(
    ("texts", "labels", "expected"),
    [
        (["a", "b", "a"], ["x", "y", "x"], {}),
        (["a", "b", "a", "a"], ["x", "y", "z", "x"], {0: 0, 2: 0, 3: 0}),
        (["A ", "ａ"], ["x", "y"], {0: 0, 1: 0}),
        (["", ""], ["x", "y"], {}),
        (["a", "a", "a"], ["x", None, float("nan")], {}),
        (["a", "a", "a"], [None, "x", "y"], {0: 0, 1: 0, 2: 0}),
    ],
)
def test_rows_conflict_where_one_text_has_two_labels(texts, labels, expected):
    assert conflicting_rows(map(normalise, texts), labels) == expected
