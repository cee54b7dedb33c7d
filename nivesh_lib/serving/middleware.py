"""What happens to every request before and after its route: keys, limits, request ids, logs."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any

from fastapi import Request, Response
from pydantic_core import to_json

from nivesh_lib.errors import NiveshError
from nivesh_lib.serving import metrics
from nivesh_lib.serving.schemas import Problem
from nivesh_lib.serving.service import Service
from nivesh_lib.serving.settings import MAX_BODY

Route = Callable[[Request], Awaitable[Response]]
Scope = MutableMapping[str, Any]
_REQUEST_ID = re.compile(rb"[\w.-]{1,64}")
# What no other's DNS can make a name of this machine: addresses, and a name that browsers know.
_OWN_NAME = re.compile(rb"(localhost|[\d.]+|\[[\da-f:.]+\])(:\d*)?", re.I)
_PREDICTIONS = ("/predict/intent", "/predict/intent/batch")
KNOWN = (*_PREDICTIONS, "/feedback", "/", "/health", "/ready", "/metrics", "/openapi.json")
_SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
]


class Front:
    """ASGI middleware in front of the routes. It refuses before a body is read.

    It calls the functions of the POST routes itself: a request that goes through FastAPI's own
    layers takes longer there than at a small model.

    Parameters
    ----------
    app : ASGI application
        What answers.
    keys : sequence of str
        See `Settings`.
    service : Service
        Whose queue is asked whether it is full, and whose release is counted.
    routes : mapping
        Path -> the function of its POST route.
    """

    def __init__(
        self, app: Any, *, keys: Sequence[str], service: Service, routes: Mapping[str, Route]
    ) -> None:
        self.app, self.service, self.log, self.routes = app, service, service.log, routes
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = perf_counter(), 0
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else os.urandom(16).hex().encode()
        scope["state"] = {"log": {}}
        added = [*_SECURITY, (b"x-request-id", request_id)]

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            self._refuse(scope, headers)
            route = self.routes.get(scope["path"]) if scope["method"] == "POST" else None
            response = await route(Request(scope, receive)) if route else self.app
            asked = scope if scope["method"] != "HEAD" else {**scope, "method": "GET"}
            await response(asked, receive, sent)  # servers leave the body out
        except Problem as problem:
            # Who asks again at once would take the turns of others.
            if problem.status == 503 and not scope.get("crowded"):
                await asyncio.sleep(self.service.admission.max_wait)
            await respond(problem, sent)
        except NiveshError as error:
            no_model = Problem(503, "No model is ready", str(error), headers={"retry-after": "10"})
            await respond(no_model, sent)
        except Exception as error:
            failed = type(error).__name__  # its message may repeat a query
            self.log("failed", request_id=request_id.decode(), error=failed, where=_place(error))
            if not status:
                await respond(Problem(500, "Internal error", "the log tells more"), sent)
        finally:
            self._tell(scope, request_id.decode(), status, perf_counter() - started)

    def _tell(self, scope: Scope, request_id: str, status: int, took: float) -> None:
        """Count a request and log it."""
        path, fields = scope["path"], scope["state"]["log"]
        shown = path if path in KNOWN else "other"
        metrics.responses.labels(shown, status).inc()
        if path in _PREDICTIONS:
            count_request(status, took, fields.get("release", self.service.release))
        ms = round(took * 1_000, 3)
        self.log("request", request_id=request_id, path=shown, status=status, ms=ms, **fields)

    def _refuse(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raise Problem where a request is refused whatever its body holds."""
        path, client = scope["path"], scope.get("client")
        if scope.get("crowded"):
            told = "more connections are open than are answered; try again in a second"
            again = {"retry-after": "1", "connection": "close"}
            raise Problem(503, "Overloaded", told, headers=again)
        if not self.keys and client and not _is_own(headers.get(b"host", b"localhost"), scope):
            told = "this server has no key, so it answers as localhost only; set ML_API_KEY"
            raise Problem(403, "Not from here", told)
        if path not in self.routes or scope["method"] != "POST":
            return
        if self.keys:
            scope["state"]["log"]["key"] = self._key(headers.get(b"x-api-key"))
        elif client and not _is_here(client[0]):
            told = "this server has no key, so it answers its own machine only; set ML_API_KEY"
            raise Problem(403, "Not from here", told)
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            told = "send the body as JSON, with the header Content-Type: application/json"
            raise Problem(415, "Not JSON", told)
        size = headers.get(b"content-length", b"0")
        if not size.isdigit() or len(size) > 12 or int(size) > MAX_BODY:
            raise Problem(413, "Body too large", f"at most {MAX_BODY:,} bytes are read")
        if path in _PREDICTIONS and self.service.admission.full:
            told = "more queries wait than can be answered in time; try again in a second"
            raise Problem(503, "Overloaded", told, headers={"retry-after": "1"})

    def _key(self, given: bytes | None) -> int:
        """Return which of the keys was given, the first being 1; raises Problem for none."""
        if given is None:
            told = "send a key in the header X-API-Key"
            raise Problem(401, "No key", told, headers={"www-authenticate": "ApiKey"})
        # Every key is compared, so that the time tells nothing about which one is nearly right.
        same = [hmac.compare_digest(given.strip(b" \t"), key) for key in self.keys]
        if True not in same:
            raise Problem(403, "Wrong key", "the key in X-API-Key is none of this server's")
        return same.index(True) + 1


@lru_cache(maxsize=1_024)
def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True  # no address: a test client or a Unix socket


def _is_own(host: bytes, scope: Scope) -> bool:
    """Whether a Host header names this machine, and not a page whose name leads here since."""
    bound = scope.get("server") or ("", None)
    return bool(_OWN_NAME.fullmatch(host)) or host.decode("latin-1") == bound[0]


def count_request(status: int, took: float, release: str) -> None:
    """Count a request for predictions that took so many seconds."""
    outcome = "error" if status >= 500 else "refused" if status >= 400 or not status else "success"
    outcome = "overload" if status == 503 else outcome
    named = metrics.model_labels(release)
    metrics.predictions.labels(*named, outcome).inc()
    if outcome == "success":
        metrics.latency.labels(*named).observe(took)


def _place(error: BaseException) -> str:
    """Return file and line of where an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


async def respond(problem: Problem, send: Any) -> None:
    """Send a problem document."""
    body = to_json(problem.document)
    head = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in problem.headers.items()),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": head})
    await send({"type": "http.response.body", "body": body})
