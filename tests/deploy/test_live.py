"""A Prometheus that reads a server: recorded values, the dashboard, an alert that fires."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any

import httpx
import pytest
import yaml

from nivesh_lib.paths import shipped_model
from tests.deploy.test_metric_names import DASHBOARD, targets
from tests.deploy.test_rules import ALERTS, RULES
from tests.serving.test_workers import serving, until

PROVOKED = "HighErrorRate"
SAID = "ml_model_corrected_accuracy"
CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: model-server
    static_configs: [{{targets: ["{target}"]}}]
"""


class Prometheus:
    """The HTTP API of a running Prometheus."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, **parameters: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.address}/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, expression: str) -> float | None:
        found = self.get("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None

    def rules(self) -> list[dict[str, Any]]:
        return [one for group in self.get("rules")["groups"] for one in group["rules"]]

    def state(self, alert: str) -> str:
        return next(one["state"] for one in self.rules() if one["name"] == alert)

    def is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.address}/-/ready").status_code == 200
        return False


@contextlib.contextmanager
def watching(program: str, target: str, folder: Path) -> Iterator[Prometheus]:
    """Yield a Prometheus that reads a server every second, with alerts that wait 2 s at most."""
    shortened = re.sub(r"\bfor: \w+", "for: 2s", yaml.safe_dump(RULES))
    (folder / "rules.yml").write_text(shortened)
    (folder / "prometheus.yml").write_text(CONFIGURATION.format(target=target))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    files = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command = [program, *files, f"--web.listen-address={address}"]
    with (
        (folder / "prometheus.log").open("w") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process,
    ):
        try:
            found = Prometheus(f"http://{address}")
            until(found.is_ready)
            yield found
        finally:
            process.terminate()
            process.wait(15)


def ask(address: str, times: int) -> None:
    """Ask, and correct every third answer, so many times."""
    for number in range(times):
        query = {"query": f"save tax {number}"}
        assert httpx.post(f"{address}/predict/intent", json=query).status_code == 200
        said = query | {"intent": "tax_planning", "predicted": "tax_planning"}
        said |= {"predicted": "loan_inquiry"} if number % 3 == 0 else {}
        assert httpx.post(f"{address}/feedback", json=said).status_code == 201


@contextlib.contextmanager
def overloaded(address: str) -> Iterator[None]:
    """Send batches side by side, more than a server answers within the wait that it allows."""
    asked = {"queries": [f"how do I save tax in {year}" for year in range(1_000)]}
    done = threading.Event()

    def send() -> None:
        with httpx.Client() as client:
            while not done.is_set():
                client.post(f"{address}/predict/intent/batch", json=asked)

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
def test_a_server_that_refuses_raises_the_alert_and_nothing_did_before(
    prometheus, tmp_path, monkeypatch
):
    monkeypatch.setenv("NIVESH_MAX_WAIT_MS", "1")
    monkeypatch.setenv("NIVESH_FEEDBACK", str(tmp_path / "feedback.jsonl"))
    options = ("--model", str(shipped_model()), "--workers", "2")
    with (
        serving(tmp_path / "log", *options) as (_, address),
        watching(prometheus, address.removeprefix("http://"), tmp_path) as found,
    ):
        until(lambda: found.value("sum(up)") == 1)
        ask(address, 150)
        until(lambda: all(found.value(one) for one in ("ml_model_accuracy", SAID)))
        sleep(3)  # longer than an alert waits
        states = {one["name"]: one["state"] for one in found.rules() if one["type"] == "alerting"}
        # The small model that ships is less sure than 0.95.
        assert {name for name in ALERTS if states[name] != "inactive"} <= {"AccuracyDrop"}
        assert found.value("model:errors:ratio_rate5m") == 0
        assert 0 < found.value('ml_prediction_latency_seconds{quantile="0.95"}') < 0.5
        assert found.value(SAID) == pytest.approx(2 / 3, abs=0.01)
        ends = [found.value(f"ml_model_accuracy{end}") for end in ("_low", "", "_high")]
        assert ends == sorted(ends) and ends[0] < ends[2]

        with overloaded(address):
            until(lambda: found.state(PROVOKED) == "firing", within=60)
        assert found.value("sum(ml_errors_total)") >= 10
        assert [one for one in found.rules() if one["health"] != "ok"] == []
        shown = [one.replace("$model", "intent_classifier") for one in targets(DASHBOARD)]
        shown = [one.replace("$instance", ".*") for one in shown]
        empty = [one for one in shown if found.value(one) is None]
        # What is no release has no drift and no canary.
        assert empty and all("model_drift" in one or "canary" in one for one in empty)
