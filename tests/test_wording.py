from __future__ import annotations

import pytest

from nivesh_lib.wording import human_bytes, milliseconds, percent


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
