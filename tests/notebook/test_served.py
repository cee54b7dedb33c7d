"""A server that is asked as in notebook 10, and what is found of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest

from nivesh_lib.errors import NiveshError
from nivesh_lib.evaluation.findings import serving
from nivesh_lib.models.base import get_model
from nivesh_lib.notebook.served import Served
from nivesh_lib.notebook.server import LocalServer
from nivesh_lib.notebook.session import start_run
from tests.notebook.test_session import PARAMS, home  # noqa: F401 (a fixture)


@pytest.fixture
def served(home, tmp_path):  # noqa: F811
    run = start_run("10_serving", **PARAMS)
    data = run.load("toy@1.0.0")
    model = get_model("tfidf").fit(data.train["query"], data.train["intent"])
    folder = model.save(tmp_path / "model", data=data.ref)
    made = Served.start(run, data, str(folder), asked=10, seconds=0.5)
    yield made
    made.stop()


def test_a_server_answers_as_its_model_counts_what_was_sent_and_keeps_corrections_only(served):
    assert served.ask("chai one spend")["intent"] == "spend"
    parts = {one.name: one for one in (served.same_answers(), served.refused(), served.kept())}
    parts["signals"] = served.signals()
    assert {name: one.verdict for name, one in parts.items()} == dict.fromkeys(parts, "met")
    assert served.latency().estimate.n > 20
    recorded = served.recorded()
    assert "as right as in process" in recorded["headline"]
    process = served.server._process
    served.stop()
    assert process.returncode == 0 and not Path(f"/proc/{process.pid}").exists()


def test_a_server_ends_with_the_process_that_started_it(shipped_folder, tmp_path):
    code = (
        "import sys; from pathlib import Path; from nivesh_lib.notebook.server import LocalServer;"
        "server = LocalServer(sys.argv[1], Path(sys.argv[2]));"
        "print(server._process.pid, flush=True); input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, shipped_folder, str(tmp_path / "own")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        child = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    for _ in range(100):
        if not Path(f"/proc/{child}").exists():
            break
        sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


@pytest.fixture
def shipped_folder() -> str:
    from nivesh_lib.paths import shipped_model

    return str(shipped_model())


def test_a_server_that_does_not_start_says_why(tmp_path):
    with pytest.raises(NiveshError, match=r"did not start.*no model.json here"):
        LocalServer(str(tmp_path), tmp_path / "own")


def test_answers_that_differ_are_shown_and_miss_the_mark():
    one = {"intent": "tax", "confidence": 0.9, "abstained": False}
    other = one | {"confidence": 0.8}
    found = serving.same_answers("it", ["a", "b"], [one, one], [one, other])
    assert found.verdict == "not met" and found.claim.startswith("1 of 2 answers")
    assert [row["query"] for row in found.cells] == ["b"]


def test_a_bad_request_that_is_answered_or_makes_the_server_fail_misses_the_mark():
    for status in (200, 500, 0):
        found = serving.refused({"empty": (422, "is empty"), "bad": (status, "x")}, answers_on=True)
        assert found.verdict == "not met" and found.claim.startswith("1 of 2 bad requests")
    assert serving.refused({"empty": (422, "is empty")}, answers_on=False).verdict == "not met"


@pytest.mark.parametrize(
    ("ms", "slowdown", "verdict"), [(5, 1.0, "met"), (300, 1.0, "not met"), (300, 4.0, "undecided")]
)
def test_slow_answers_miss_the_mark_unless_the_machine_was_busy(ms, slowdown, verdict):
    waits = {"by the caller": [float(ms)] * 500, "by the model alone": [1.0] * 50}
    found = serving.request_latency("it", waits, "intents@1.1.0", slowdown=slowdown)
    assert found.verdict == verdict and found.estimate.value == ms


def test_counts_that_are_not_what_was_sent_miss_the_mark():
    where = (("path", "/predict/intent"), ("status", "200"))
    gauges = {("model_memory_mb", ()): 100.0, ("model_queries_waiting", ()): 0.0}
    after = gauges | {
        ("http_responses_total", where): 7.0,
        ("intent_predictions_by_label_total", (("intent", "tax"),)): 7.0,
    }
    for sent, verdict in ((7, "met"), (8, "not met")):
        found = serving.signals(gauges, after, {200: sent}, {"tax": 7}, seconds=1.0)
        assert found.verdict == verdict


def test_what_was_sent_and_is_found_again_misses_the_mark():
    line = {"query": "x", "intent": "tax"}
    assert serving.kept(line, "", []).verdict == "met"
    assert serving.kept(line, "", ["the log"]).verdict == "not met"
    assert serving.kept({}, "no space", []).verdict == "not met"
