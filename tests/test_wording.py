from __future__ import annotations

import pytest

from nivesh_lib.wording import human_bytes, milliseconds, percent, would_show


@pytest.mark.parametrize(
    ("size", "text"), [(None, "not measured"), (12, "12 B"), (1500, "1.5 kB"), (3.2e6, "3.2 MB")]
)
def test_sizes_are_readable(size, text):
    assert human_bytes(size) == text


def test_a_missing_time_is_not_measured():
    assert (milliseconds(1.23), milliseconds(None), milliseconds(None, "-")) == (
        "1.2 ms", "not measured", "-"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0 %"), (0.031, "3.1 %"), (0.5, "50 %"), (1, "100 %")]
)
def test_a_percentage_has_no_needless_digits(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(
    ("least", "words"),
    [
        ([0.08, 0.124, 0.1], "; a gap would have to be 8 to 12 points to be found"),
        ([0.08, 0.081], "; a gap would have to be 8 points to be found"),
        ([0.08, float("nan")], "; not even the largest gap would be found"),
        ([], ""),
    ],
)
def test_how_large_a_gap_would_have_to_be_is_said(least, words):
    found = would_show(least)
    assert found.startswith(words) and found.endswith("four times out of five" if least else "")
