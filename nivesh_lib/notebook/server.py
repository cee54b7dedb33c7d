"""``nivesh serve`` as a child process, and requests to it as a caller sends them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import secrets
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from itertools import cycle
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

from nivesh_lib import paths
from nivesh_lib.errors import NiveshError
from nivesh_lib.privacy import anonymize_query

PATIENCE = 10.0  # seconds that a caller waits for an answer
_STARTING = 120.0  # seconds
_CALLERS = 32  # at most at a time
# Standard input is a pipe of the parent: it ends when the parent does, whatever ended that.
_START = (
    "import os, threading; "
    "threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start(); "
    "from nivesh_lib.__main__ import main; main()"
)


@dataclass(frozen=True)
class Reply:
    """What a caller got: status 0 is none. ``said`` is the JSON of the answer, or its text."""

    status: int
    said: Any

    @property
    def detail(self) -> str:
        """The sentence of a refusal."""
        return str(self.said["detail"]) if isinstance(self.said, dict) else str(self.said)


@dataclass(frozen=True)
class Call:
    """One request of a load: the reply, and the milliseconds until then from when it was due.

    A request that is not answered counts as one that takes `PATIENCE`.
    """

    ms: float
    reply: Reply


class LocalServer:
    """A server on a free port, with a key and files of its own.

    It ends with `stop`, when nothing refers to it any more, and with this process, however that
    ends. Every query is answered by the model: nothing is cached.

    Parameters
    ----------
    model
        As ``nivesh serve --model`` takes it.
    folder
        Of its log and corrections; emptied first.
    settings
        Environment variables of the server, beside and before those of this process; None unsets.

    Raises
    ------
    NiveshError
        The server does not start; the message is its own.
    """

    def __init__(self, model: str, folder: Path, **settings: str | None) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.log, self.feedback = folder / "server.jsonl", folder / "feedback.jsonl"
        self._told, self.key = folder / "server.err", secrets.token_urlsafe(16)
        self._own, self._connections = threading.local(), list[HTTPConnection]()
        options = ["serve", "--port", "0", "--model", model]
        with self.log.open("wb") as out, self._told.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, *options],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=self._environment(settings),
            )
        self._end = weakref.finalize(self, _kill, self._process)
        self._port = self._wait_until_ready()

    def _environment(self, settings: Mapping[str, str | None]) -> dict[str, str]:
        library = str(paths.package_dir().parent)
        known = os.pathsep.join([library, *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {"ML_API_KEY": self.key, "NIVESH_FEEDBACK": str(self.feedback), "NIVESH_CACHE": "off"}
        own |= {"NIVESH_LOG_QUERIES": "off", "NIVESH_MAX_WAIT_MS": "50", "PYTHONPATH": known}
        every = {**os.environ, **own, **settings}
        return {name: value for name, value in every.items() if value is not None}

    def _wait_until_ready(self) -> int:
        """Return the port when queries are answered there."""
        until = monotonic() + _STARTING
        while monotonic() < until and self._process.poll() is None:
            told = self._told.read_text(encoding="utf-8", errors="replace")
            if found := re.search(r" on http://127\.0\.0\.1:(\d+)", told):
                self._port = int(found[1])
                if self.send("GET", "/ready").status == 200:
                    return self._port
            sleep(0.05)
        self.stop()
        lines = self._told.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        why = lines[-1].removeprefix("error: ") if lines else "it said nothing"
        raise NiveshError(f"the server did not start: {why[:500]}")

    def stop(self) -> None:
        """End the server: it answers what it has begun, and is killed where that takes too long."""
        for connection in self._connections:
            connection.close()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        self._end()

    # --- requests --------------------------------------------------------------------------------

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str | None
    ) -> Reply:
        """Send one request with the key, and return the reply; status 0 where there is none.

        Parameters
        ----------
        headers
            Further ones, or others than the usual; ``_`` is ``-``, None leaves one out.
        """
        usual = {"X-API-Key": self.key, "Content-Type": "application/json"}
        named = usual | {name.replace("_", "-"): value for name, value in headers.items()}
        given = {name: value for name, value in named.items() if value is not None}
        connection = self._connection()
        for _ in range(2):  # the server closes a connection that was idle for long
            try:
                connection.request(method, path, body, given)
                response = connection.getresponse()
                return Reply(response.status, _read(response.read()))
            except (ConnectionError, HTTPException):
                connection.close()
            except TimeoutError:
                connection.close()
                break
        return Reply(0, "no answer")

    def _connection(self) -> HTTPConnection:
        """Return the connection of this thread."""
        made: HTTPConnection | None = getattr(self._own, "connection", None)
        if made is None:
            made = self._own.connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
            self._connections.append(made)
        return made

    def post(self, path: str, **fields: Any) -> Reply:
        """Send a JSON object."""
        return self.send("POST", path, json.dumps(fields).encode())

    def ask(self, query: str) -> dict[str, Any]:
        """Return the answer to a query. Raises NiveshError where it is refused."""
        reply = self.post("/predict/intent", query=query)
        if reply.status != 200:
            raise NiveshError(f"{anonymize_query(query)!r} is not answered: {reply.detail}")
        return dict(reply.said)

    def load(self, queries: Sequence[str], *, rate: float, seconds: float) -> list[Call]:
        """Send queries in turn at random moments, whether or not earlier ones were answered.

        Parameters
        ----------
        rate
            Requests a second on average.
        """
        chance, started = random.Random(0), perf_counter()

        def call(due: float, query: str) -> Call:
            reply = self.post("/predict/intent", query=query)
            return Call(1e3 * (perf_counter() - due if reply.status == 200 else PATIENCE), reply)

        calls, due, endless = [], started, cycle(queries)
        with ThreadPoolExecutor(_CALLERS) as callers:
            while due <= started + seconds:
                sleep(max(0.0, due - perf_counter()))
                calls.append(callers.submit(call, due, next(endless)))
                due += chance.expovariate(rate)
        return [one.result() for one in calls]


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin:
        process.stdin.close()


def _read(body: bytes) -> Any:
    """Return JSON as what it says, and anything else as text."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
