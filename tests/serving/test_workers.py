"""`nivesh serve` as processes: start, several workers, one that is killed, stop."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep, time

import httpx
import pytest

COMMAND = [sys.executable, "-m", "nivesh_lib", "serve"]


@contextlib.contextmanager
def serving(
    log: Path, *options: str, program: Sequence[str] = COMMAND
) -> Iterator[tuple[subprocess.Popen, str]]:
    """Yield the process of a server on a free port and its address."""
    command = [*program, "--port", "0", *options]
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            line = next((line for line in process.stderr if "Serving" in line), "")
            yield process, re.search(r"http://\S+", line)[0]
        finally:
            process.terminate()
            process.wait(15)


def workers_of(process: subprocess.Popen) -> set[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return {int(one) for one in children.split()}


def until(condition: Callable[[], bool], within: float = 20) -> None:
    end = monotonic() + within
    while not condition():
        assert monotonic() < end, f"not within {within} s"
        sleep(0.05)


def serves(address: str, workers: int) -> bool:
    """Return whether so many workers have a model."""
    try:
        return f"active_models_count {workers}.0" in httpx.get(f"{address}/metrics").text
    except httpx.HTTPError:
        return False


def counted(address: str) -> float:
    text = httpx.get(f"{address}/metrics").text
    found = re.findall(r'^model_predictions_total\{.*status="success".*\} (\S+)', text, re.M)
    return sum(map(float, found))


def ask(address: str, number: int) -> int:
    """Ask once on a connection of its own, so that any worker may answer; 0 where it was cut."""
    try:
        response = httpx.post(f"{address}/predict/intent", json={"query": f"save tax {number}"})
        return response.status_code
    except httpx.HTTPError:
        return 0


def started_at(address: str) -> float:
    text = httpx.get(f"{address}/metrics").text
    return float(re.search(r"^model_start_time_seconds (\S+)", text, re.M)[1])


def test_a_killed_worker_is_replaced_and_what_it_counted_stays(shipped, tmp_path):
    seen: Counter[int] = Counter()
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            seen[ask(address, seen.total())] += 1

    options = ("--model", shipped, "--workers", "2")
    with serving(tmp_path / "log", *options) as (process, address):
        until(lambda: serves(address, 2))
        started, before = started_at(address), workers_of(process)
        assert abs(time() - started) < 60
        asking = threading.Thread(target=load)
        asking.start()
        until(lambda: seen[200] >= 20)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        until(lambda: serves(address, 2) and killed not in workers_of(process))
        done.set()
        asking.join()
        assert set(seen) <= {0, 200} and seen[0] <= 1  # what was in flight
        assert counted(address) >= seen[200]
        assert started_at(address) == started
    assert process.returncode == 0 and not any(Path(f"/proc/{one}").exists() for one in before)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert sum(line.get("path") == "/predict/intent" for line in lines) >= seen[200]


def test_workers_come_back_where_the_folder_of_metrics_was_removed(shipped, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    options = ("--model", shipped, "--workers", "2")
    with serving(tmp_path / "log", *options) as (process, address):
        until(lambda: serves(address, 2))
        (folder,) = tmp_path.glob("nivesh-metrics-*")
        shutil.rmtree(folder)
        for worker in workers_of(process):
            os.kill(worker, signal.SIGKILL)
        until(lambda: serves(address, 2))
    assert process.returncode == 0 and not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_ends_it_as_asked(shipped, tmp_path, number, workers):
    options = ("--model", shipped, "--workers", str(workers))
    with serving(tmp_path / "log", *options) as (process, address):
        until(lambda: serves(address, workers))
        process.send_signal(number)
        assert process.wait(15) == 0 and process.stderr.read() == ""


def test_workers_end_with_their_parent(shipped, tmp_path):
    with serving(tmp_path / "log", "--model", shipped, "--workers", "2") as (process, address):
        until(lambda: serves(address, 2))
        workers = workers_of(process)
        process.kill()
        until(lambda: not any(Path(f"/proc/{one}").exists() for one in workers))


def test_a_log_that_cannot_be_written_fails_no_request(shipped):
    with serving(Path("/dev/full"), "--model", shipped) as (_, address):
        until(lambda: serves(address, 1))
        assert ask(address, 0) == 200
        text = httpx.get(f"{address}/metrics").text
        lost = re.search(r"^log_lines_lost_total (\S+)", text, re.M)
        assert float(lost[1]) >= 2


def test_a_model_that_cannot_be_served_is_told_before_it_listens(tmp_path):
    done = subprocess.run(
        [*COMMAND, "--model", str(tmp_path), "--workers", "2"], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no model.json here" in done.stderr


def test_a_place_where_no_correction_can_be_kept_is_told_at_once(shipped, monkeypatch):
    from typer.testing import CliRunner

    from nivesh_lib.cli.app import app
    from nivesh_lib.serving import workers

    monkeypatch.setattr(workers, "serve", lambda bound, count: 0)
    monkeypatch.setenv("NIVESH_FEEDBACK", "/dev/null/feedback.jsonl")
    for name in ("NIVESH_SERVE_MODEL", "NIVESH_SERVE_NAME"):  # as they were, afterwards
        monkeypatch.setenv(name, "")
    done = CliRunner().invoke(app, ["serve", "--model", shipped, "--port", "0"])
    assert "warning: corrections cannot be kept: /dev/null is no folder" in done.output


def test_an_address_in_use_is_told(shipped):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*COMMAND, "--model", shipped, "--port", port], capture_output=True, text=True
        )
    assert done.returncode == 1 and "Address already in use" in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_a_public_address_needs_a_key(shipped, host, monkeypatch):
    from typer.testing import CliRunner

    from nivesh_lib.cli.app import app

    monkeypatch.setenv("ML_API_KEY", " , ")
    monkeypatch.setenv("NIVESH_SERVE_MODEL", "")  # which the command sets, is as before afterwards
    monkeypatch.setenv("NIVESH_SERVE_NAME", "")
    done = CliRunner().invoke(app, ["serve", "--model", shipped, "--host", host])
    assert done.exit_code == 2 and "ML_API_KEY is not set" in done.output


def test_a_client_that_hangs_up_is_no_error_of_the_server(shipped, tmp_path):
    started = (
        b"POST /predict/intent HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 99\r\n\r\n{"query":'
    )
    with serving(tmp_path / "log", "--model", shipped) as (_, address):
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(started)
            sleep(0.2)  # so that it is read, and waited for
        until(lambda: '"status":400' in (tmp_path / "log").read_text())
        text = httpx.get(f"{address}/metrics").text
    assert re.search(r'^model_predictions_total\{.*status="refused"\} 1.0$', text, re.M)
    # There at zero, so that the first one will be a rise.
    assert re.search(r'^model_predictions_total\{.*status="error"\} 0.0$', text, re.M)
