from __future__ import annotations

from pathlib import Path

import pytest

from nivesh_lib.paths import feedback_file
from nivesh_lib.serving.settings import Settings


def test_without_variables_only_this_machine_is_answered_and_nothing_of_queries_is_logged():
    settings = Settings.read({})
    assert settings.keys == () and not settings.log_queries and settings.cache
    assert settings.feedback == feedback_file()


def test_variables_are_read():
    settings = Settings.read(
        {
            "ML_API_KEY": "old, new,",
            "NIVESH_SERVE_MODEL": "staging",
            "NIVESH_CACHE": "off",
            "NIVESH_LOG_QUERIES": "ON",
            "NIVESH_MAX_WAIT_MS": "20",
            "NIVESH_FEEDBACK": "/tmp/corrections.jsonl",
            "NIVESH_DRIFT_EVERY_S": "2",
        }
    )
    expected = Settings(
        "staging", ("old", "new"), False, True, 0.02, Path("/tmp/corrections.jsonl"), 2.0
    )
    assert settings == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NIVESH_CACHE", "maybe"),
        ("NIVESH_MAX_WAIT_MS", "0"),
        ("NIVESH_MAX_WAIT_MS", "1.5"),
        ("NIVESH_DRIFT_EVERY_S", "0"),
        ("NIVESH_DRIFT_EVERY_S", "1e3"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} is '{value}'"):
        Settings.read({name: value})
