from __future__ import annotations

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed (extra dev)")

from tests.load import fuzz


@pytest.mark.filterwarnings("default")
def test_no_made_up_request_gets_an_answer_that_the_openapi_does_not_tell_of(tmp_path):
    found = fuzz.fuzz(200, tmp_path)
    assert found.faults == {}
    assert sum(found.statuses.values()) >= 200
    answered = {label for label, status in found.statuses if 200 <= status < 300}
    assert answered == {label for label, _ in found.statuses}  # all of them, good bodies too
    kept = (tmp_path / "feedback.jsonl").read_text().count("\n")
    assert kept == found.statuses[fuzz.FEEDBACK, 201]


def test_a_server_error_and_an_answer_of_another_shape_are_faults(tmp_path, monkeypatch):
    from nivesh_lib.serving import app

    monkeypatch.setattr(app, "_health", lambda reasons: {"status": 1})
    monkeypatch.setattr(app.metrics, "exposition", lambda: 1 / 0)
    found = fuzz.fuzz(1, tmp_path)
    titles = " ".join(found.faults)
    assert "GET /health, 200" in titles and "GET /metrics, 500" in titles
    assert any(title.startswith("ZeroDivisionError at") for title in found.faults)
