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

GOOD = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /predict/intent HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HALVES = [b"", GOOD[:20], POST + b"Content-Length: 9\r\n\r\n{"]


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
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert b"at most 500" in answer(connection)


@pytest.mark.parametrize("wanted", [b"h2c", b"websocket"])
@pytest.mark.parametrize("split", [0, 1, 9])
@pytest.mark.parametrize(
    "rest",
    [
        b'Content-Length: 21\r\n\r\n{"query": "save tax"}',
        b'Transfer-Encoding: chunked\r\n\r\n15\r\n{"query": "save tax"}\r\n0\r\n\r\n',
    ],
)
def test_who_asks_for_another_protocol_is_answered_in_this_one(port, rest, split, wanted):
    head, _, body = rest.partition(b"\r\n\r\n")
    asked = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: \r\n" % wanted
    last = GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    first = POST + asked + head + b"\r\n\r\n" + body[:split]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in (first[:90], first[90:], body[split:], last):
            connection.sendall(part)
            sleep(0.02)
        _, found = until_closed(connection)
        assert found.count(b"HTTP/1.1 200 OK") == 2
        assert b'"tax_planning"' in found and b'"ready"' in found


def test_no_tunnel_is_opened(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n")
        assert until_closed(connection)[1].startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("path", [b"/", b"/health", b"/ready", b"/metrics"])
def test_head_is_get_without_a_body(port, path):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        asked = b"HEAD %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(asked % path)
        _, sent = until_closed(connection)
        assert sent.startswith(b"HTTP/1.1 200") and sent.endswith(b"\r\n\r\n")
        assert b"content-length: 0" not in sent and b"content-length: " in sent


def test_too_many_connections_are_told_when_to_come_again(port, monkeypatch):
    monkeypatch.setattr(protocol, "CONNECTIONS", 2)
    with socket.create_connection(("127.0.0.1", port)) as first:
        first.sendall(GOOD)
        assert b"200 OK" in answer(first)
        with socket.create_connection(("127.0.0.1", port)) as second:
            second.sendall(GOOD)
            _, sent = until_closed(second)
    assert sent.startswith(b"HTTP/1.1 503") and b'"title":"Overloaded"' in sent
    assert b"application/problem+json" in sent and b"retry-after: 1\r\n" in sent
