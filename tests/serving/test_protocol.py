"""Connections on which a request does not come to its end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from time import monotonic, sleep

import pytest
import uvicorn

from nivesh_lib.serving import protocol
from nivesh_lib.serving.app import create_app
from nivesh_lib.serving.settings import Settings

GOOD = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
HALVES = [b"", GOOD[:20], b"POST /feedback HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"]


@pytest.fixture(scope="module")
def port(shipped) -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch, socket.socket() as bound:
        patch.setattr(protocol, "PATIENCE", 0.5)
        bound.bind(("127.0.0.1", 0))
        app = create_app(Settings(model=shipped))
        config = uvicorn.Config(app, http=protocol.BoundedProtocol, log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        while not server.started:
            sleep(0.01)
        yield bound.getsockname()[1]
        server.should_exit = True
        thread.join()


def until_closed(connection: socket.socket) -> tuple[float, bytes]:
    """Return the seconds until the other side closes a connection, and what it sent."""
    started, sent = monotonic(), b""
    connection.settimeout(10)
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(4096):
            sent += part
    return monotonic() - started, sent


def answer(connection: socket.socket) -> bytes:
    """Return an answer with all of its body, which is one JSON object."""
    connection.settimeout(10)
    sent = b""
    while not sent.endswith(b"}"):
        sent += connection.recv(4096)
    return sent


@pytest.mark.parametrize("half", HALVES)
def test_a_request_that_does_not_come_is_waited_for_a_while(port, half):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(half)
        seconds, _ = until_closed(connection)
        assert 0.3 < seconds < 5


def test_a_connection_is_kept_between_requests_and_the_next_one_is_waited_for_too(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(2):
            connection.sendall(GOOD)
            assert b"200 OK" in answer(connection)
            sleep(0.7)  # longer than a request may take
        connection.sendall(GOOD[:20])
        assert until_closed(connection)[0] < 5


def test_a_head_without_end_is_cut(port, monkeypatch):
    monkeypatch.setattr(protocol, "PATIENCE", 60.0)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(GOOD[:-2] + b"X-A: " + b"a" * 2**20)
        assert until_closed(connection)[0] < 5


def test_a_large_body_is_no_large_head(port):
    body = b'{"query": "' + b"x" * 200_000 + b'"}'
    head = f"POST /predict/intent HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        assert b"at most 500" in answer(connection)
