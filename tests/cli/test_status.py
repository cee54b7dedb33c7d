"""`nivesh status`: what release log, server and Prometheus say, and what is said without them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep, time

import pytest
from fastapi.testclient import TestClient

from nivesh_lib import paths
from nivesh_lib.paths import shipped_model
from nivesh_lib.serving import metrics
from nivesh_lib.serving import status as gathered
from nivesh_lib.serving.app import create_app
from nivesh_lib.serving.settings import Settings
from nivesh_lib.serving.status import Signals, server_of
from tests.releases.test_canary import line
from tests.releases.test_log import append

HEALTH = {"status": "healthy", "reasons": [], "model": "intent_classifier", "release": "1.1.0"}
HEALTH |= {"served_since": "2026-01-02T03:04:05+00:00", "intents": []}
STARTED = int(time()) - 600
METRICS = f"""model_start_time_seconds {STARTED}
model_predictions_total{{release="1.1.0",status="success"}} 190
model_predictions_total{{release="1.0.0",status="success"}} 5
model_predictions_total{{release="1.1.0",status="error"}} 3
model_predictions_total{{release="1.1.0",status="overload"}} 2
model_predictions_total{{release="1.1.0",status="refused"}} 40
model_prediction_latency_seconds_bucket{{release="1.1.0",le="0.001"}} 50
model_prediction_latency_seconds_bucket{{release="1.1.0",le="0.0025"}} 100
model_prediction_latency_seconds_bucket{{release="1.1.0",le="+Inf"}} 190
model_prediction_latency_seconds_bucket{{release="1.0.0",le="0.001"}} 5
model_prediction_latency_seconds_bucket{{release="1.0.0",le="0.0025"}} 5
model_prediction_latency_seconds_bucket{{release="1.0.0",le="+Inf"}} 5
model_queries_waiting 7
model_memory_mb 212.5
prediction_confidence_sum{{model_name="intent_classifier"}} 160
prediction_confidence_count{{model_name="intent_classifier"}} 200
feedback_corrections_total{{agrees="yes"}} 3
feedback_corrections_total{{agrees="no"}} 1
feedback_corrections_total{{agrees="unknown"}} 9
model_drift{{model_name="intent_classifier"}} 1
model_drift_p_value{{model_name="intent_classifier"}} 0.0123
"""
FIRING = {"state": "firing", "activeAt": "2026-01-02T00:00:00Z", "value": "1"}
FIRING |= {"labels": {"alertname": "NoServer", "severity": "critical"}}
FIRING |= {"annotations": {"summary": "None", "runbook_url": "docs/monitoring.md#noserver"}}
PENDING = FIRING | {"state": "pending", "labels": {"alertname": "Slow", "severity": "warning"}}
Serve = Callable[[dict[str, object]], str]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "APART", 0.01)
    monkeypatch.setattr(gathered, "TIMEOUT", 0.5)
    monkeypatch.delenv("NIVESH_PROMETHEUS", raising=False)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that answers paths with a text, JSON, or one text after the other."""
    servers = []

    def start(answers: dict[str, object]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers.get(self.path)
                answer = answer.pop(0) if isinstance(answer, list) else answer
                self.send_response(404 if answer is None else 200)
                self.end_headers()
                text = answer if isinstance(answer, str) else json.dumps(answer)
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def two(home):
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        append("release", version)
    append("promotion", "1.0.0", stage="production")
    append("promotion", "1.1.0", stage="production", who="Ravi")


@pytest.fixture
def nowhere() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def alerting(*alerts: object, rules: int = 0) -> dict[str, object]:
    groups = [{"rules": [{"name": "x"}] * rules}]
    return {
        "/api/v1/alerts": {"status": "success", "data": {"alerts": list(alerts)}},
        "/api/v1/rules?type=alert": {"status": "success", "data": {"groups": groups}},
    }


def test_all_is_on_one_screen(two, run, serve):
    url = serve({"/health": HEALTH, "/metrics": METRICS})
    done = run("status", "--url", url, "--prometheus", serve(alerting(PENDING, FIRING)))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    since = "2026-01-02T03:04:05Z"
    assert f"  healthy     serves 1.1.0 since {since}, as the log says" in lines
    for part in (
        *(", by Ravi", "previous    1.0.0 ", "staging     none"),
        *("2.5 ms\n", "above 2.5 ms\n", "(200)\n", "5 (2.5 %)\n", "7 queries wait, 212 MB"),
        *("80 %, the mean confidence of 200 answers", "agreed with 3 of 4 corrections"),
        *("found, p 0.0123", "0 a second (0) ", "no answers  "),
    ):
        assert part in done.stdout, part
    alerts = done.stdout.partition("Alerts\n")[2]
    assert " ".join(alerts.split()) == (
        "firing critical NoServer: None. docs/monitoring.md#noserver "
        "pending warning Slow: None. docs/monitoring.md#noserver"
    )


def test_json_says_the_same(two, run, serve):
    later = METRICS.replace('status="success"} 190', 'status="success"} 196')
    url = serve({"/health": HEALTH, "/metrics": [METRICS, later]})
    found = json.loads(run("status", "--url", url, "--json").stdout)
    assert found["releases"]["stages"]["production"]["version"] == "1.1.0"
    server = found["server"]
    assert (server["as_logged"], server["status"], server["drift"]) == (True, "healthy", True)
    assert (server["last"]["requests"], server["total"]["requests"]) == (6, 206)
    assert server["last"]["p50"] is None and server["total"]["p50"] == [0.001, 0.0025]
    assert server["total"]["p95"] == [0.0025, None]
    assert server["total"]["seconds"] == pytest.approx(time() - STARTED, abs=30)
    assert "no Prometheus was named" in found["alerts"]["problem"]


def test_a_server_that_was_started_in_between_counts_from_zero(serve):
    fresh = "\n".join(row.rpartition(" ")[0] + " 1" for row in METRICS.splitlines()[1:])
    after = f"model_start_time_seconds {STARTED + 599}\n{fresh}\n"
    found = server_of(serve({"/health": HEALTH, "/metrics": [METRICS, after]}))
    assert found.last.requests == 0 and found.total.requests == 4
    assert found.estimated_accuracy is None


def test_what_a_server_exports_is_read(tmp_path, serve):
    settings = Settings(model=str(shipped_model()), feedback=tmp_path / "kept.jsonl")
    client = TestClient(create_app(settings), client=("127.0.0.1", 50_000))
    before = metrics.samples(metrics.exposition().decode())
    asked = {"query": "how do I save tax under 80C?"}
    assert client.post("/predict/intent", json=asked).status_code == 200
    assert client.post("/predict/intent", json={}).status_code == 422
    intent = client.post("/predict/intent", json=asked).json()["intent"]
    client.post("/feedback", json=asked | {"intent": intent, "predicted": intent})
    texts = {path: client.get(path).text for path in ("/health", "/metrics")}
    found = server_of(serve(texts))
    assert (found.status, found.problem) == ("healthy", "")
    now = metrics.samples(texts["/metrics"])
    new = Signals.of({key: value - before.get(key, 0) for key, value in now.items()}, 1.0)
    assert (new.requests, new.errors, new.refused) == (2, 0, 1)
    assert new.p95[1] > 0
    assert found.corrections >= 1 and found.answers >= 2 and found.started[:2] == "20"


@pytest.mark.parametrize("step", ["shadow", "10"])
def test_a_canary_has_its_step_and_its_evidence(two, run, nowhere, step):
    line("shadow", "1.2.0")
    if step == "10":
        line("10", "1.2.0")
    shown = run("status", "--url", nowhere).stdout
    assert "  canary      1.2.0   since " in shown
    assert ("10 % of users" if step == "10" else ", shadow") in shown
    assert "  evidence    0 pairs, e-value 1; rolled back from 80 on" in shown


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"release": "1.0.0"}, "serves 1.0.0 since 2026-01-02T03:04:05Z; the log says 1.1.0"),
        ({"release": ""}, "serves no release since 2026-01-02T03:04:05Z; the log says 1.1.0"),
        ({"model": "my_classifier"}, "serves 1.1.0 of my_classifier since"),
        ({"status": "degraded", "reasons": ["the disk\x1b[2J"]}, "because     the disk\\x1b[2J"),
    ],
)
def test_what_is_not_as_it_should_be_is_said(two, run, serve, change, said):
    done = run("status", "--url", serve({"/health": HEALTH | change, "/metrics": METRICS}))
    assert done.returncode == 0 and said in done.stdout
    assert ("as the log says" in done.stdout) == ("status" in change)


def test_many_reasons_and_alerts_are_cut(two, run, serve):
    health = HEALTH | {"status": "degraded", "reasons": [f"reason {n}" for n in range(50)]}
    url = serve({"/health": health, "/metrics": METRICS})
    done = run("status", "--url", url, "--prometheus", serve(alerting(*[FIRING] * 50)))
    assert done.stdout.count("reason ") == done.stdout.count("NoServer") == 6
    assert done.stdout.count("and 44 more; --json has all") == 2


def silent() -> socket.socket:
    taken = socket.create_server(("127.0.0.1", 0))
    return taken


def dripping(server: socket.socket, head: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        try:
            connection.sendall(head)
            for _ in range(100):
                sleep(0.05)
                connection.sendall(b"x")
        except OSError:
            pass


@pytest.mark.parametrize("head", [None, b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\na: "])
def test_a_server_that_hangs_is_not_waited_for(home, run, head):
    with silent() as server:
        if head is not None:
            threading.Thread(target=dripping, args=(server, head), daemon=True).start()
        started = time()
        done = run("status", "--url", f"http://127.0.0.1:{server.getsockname()[1]}")
    assert done.returncode == 0 and "answers nothing within 0.5 s: it hangs" in done.stdout
    assert time() - started < 4


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({}, "/health is answered with 404"),
        ({"/health": "<html>"}, "/health is answered, but not as by a server of `nivesh serve`"),
        ({"/health": {"status": "healthy"}}, "is answered, but not as by a server"),
        ({"/health": "[" * 100_000}, "is answered, but not as by a server"),
        ({"/health": HEALTH, "/metrics": "}{ nonsense"}, "/metrics is not that of"),
        ({"/health": HEALTH, "/metrics": "up 1\n"}, "/metrics is not that of"),
        ({"/health": HEALTH, "/metrics": "model_start_time_seconds NaN\n"}, "is not that of"),
        ({"/health": HEALTH, "/metrics": "model_start_time_seconds 1e99\n"}, "is not that of"),
        ({"/health": HEALTH}, "/metrics is answered with 404"),
    ],
)
def test_another_program_on_that_port_is_one_sentence(home, run, serve, answers, said):
    done = run("status", "--url", serve(answers))
    assert done.returncode == 0 and said in " ".join(done.stdout.split())
    assert "Signals" not in done.stdout and not done.stderr


def test_what_speaks_no_http_is_said(home, run):
    with silent() as server:
        head = b"SSH-2.0-OpenSSH_9.6\r\n"
        threading.Thread(target=dripping, args=(server, head), daemon=True).start()
        done = run("status", "--url", f"http://127.0.0.1:{server.getsockname()[1]}")
    assert done.returncode == 0 and "answers, but not by HTTP" in done.stdout


def test_without_a_server_and_prometheus_both_are_told_how_to_start(home, run, nowhere):
    done = run("status", "--url", nowhere)
    assert done.returncode == 0
    shown = " ".join(done.stdout.split())
    assert f"nothing answers at {nowhere} (Connection refused)" in shown
    assert ".venv/bin/nivesh serve" in shown and "deploy/prometheus/local.yml" in shown
    assert "production none staging none previous none" in shown


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (alerting(rules=3), "none of 3 rules is firing or pending"),
        (alerting(), "has no rules that alert"),
        ({"/api/v1/alerts": {"data": {"alerts": [{"state": 1}]}}}, "but not as by Prometheus"),
        ({}, "/api/v1/alerts is answered with 404"),
    ],
)
def test_silence_is_told_from_not_knowing(home, run, serve, nowhere, monkeypatch, answers, said):
    monkeypatch.setenv("NIVESH_PROMETHEUS", serve(answers))
    done = run("status", "--url", nowhere)
    assert done.returncode == 0 and said in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000", "ftp://x", "http://", "http://x:port", "http://x:99999"),
        *("http://a b", "http://user:secret@x", "http://[::1", "http://x\x1b[2J", "http://ü.in"),
    ],
)
def test_a_url_that_is_none_is_one_error(home, run, url):
    given = ("--url", url) if url != "ftp://x" else ("--prometheus", url)
    done = run("status", *given)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "is no URL that can be asked" in done.stderr


def test_a_broken_log_is_told_and_the_rest_is_shown(two, run, serve):
    log = paths.release_log()
    log.write_text(log.read_text().replace("Asha", "Eve", 1))
    done = run("status", "--url", serve({"/health": HEALTH, "/metrics": METRICS}))
    assert done.returncode == 1 and "line 2: " in done.stdout and "Signals" in done.stdout
    assert "as the log says" not in done.stdout


def test_it_imports_nothing_heavy(home, nowhere):
    heavy = {"mlflow", "pandas", "torch", "sklearn", "scipy", "fastapi", "httpx", "numpy"}
    code = (
        f"import sys; sys.argv = ['nivesh', 'status', '--url', {nowhere!r}]\n"
        "from nivesh_lib.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr
