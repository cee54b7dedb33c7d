from __future__ import annotations

import contextlib

import pytest

COLLECTS = "test_what_was_in_memory_before_is_kept_from_the_collector_while_timing"


@pytest.fixture(autouse=True)
def _no_collection_before_timing(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leave out the garbage collection before each measurement: here it takes half a second."""
    if request.node.name != COLLECTS:
        monkeypatch.setattr(
            "nivesh_lib.evaluation.benchmark._nothing_old_to_collect", contextlib.nullcontext
        )
