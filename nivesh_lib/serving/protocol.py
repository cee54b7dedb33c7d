"""HTTP connections that are closed where a request does not come to its end."""

from __future__ import annotations

import asyncio
from typing import Any

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PATIENCE = 20.0  # seconds that a request may take to come, head and body
MAX_HEAD = 2**16  # bytes
CONNECTIONS = 1_000  # from so many on, requests are refused


class _Parser(HttpRequestParser):
    """Reads requests that ask for another protocol as those that do not.

    llhttp skips their bodies, and would read them as the next request. Some clients, Java's among
    them, ask so with every first request, and take an answer in HTTP/1.1.
    """

    def __init__(self, protocol: BoundedProtocol) -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.protocol = protocol

    @property
    def asked(self) -> bool:
        """Whether the request that is read asks for another protocol; CONNECT has to be refused."""
        return self.should_upgrade() and self.get_method() != b"CONNECT"

    def feed_data(self, data: Any) -> None:
        """Read on; a head with ``Upgrade`` is read again without it."""
        while True:
            try:
                return super().feed_data(data)
            except HttpParserUpgrade as stopped:
                if not self.asked:
                    raise
                data = self._plain_head() + data[stopped.args[0] :]

    def _plain_head(self) -> bytes:
        first = b"%b %b HTTP/%b" % (
            self.get_method(), self.protocol.url, self.get_http_version().encode()
        )  # fmt: skip
        kept = [b": ".join(one) for one in self.protocol.headers if one[0] != b"upgrade"]
        return b"\r\n".join([first, *kept, b"", b""])


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a deadline for requests and a limit on their heads.

    Without them, connections that say nothing would hold the places of others for ever, and a
    header that never ends would cost time that grows with its square. A request that comes when
    there are too many connections is marked as ``crowded`` in its scope.
    """

    _late: asyncio.TimerHandle | None = None
    _head = 0  # bytes of the head that is coming; -1 in a body

    parser: _Parser

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.parser = _Parser(self)

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._late = self.loop.call_later(PATIENCE, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless a head has become too long."""
        if self._head >= 0:
            self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD:
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of a request."""
        super().on_message_begin()
        self._in_time()
        self._late = self.loop.call_later(PATIENCE, self.transport.close)

    def on_headers_complete(self) -> None:
        """Read a body from here on."""
        if self.parser.asked:
            return
        self._head = -1
        crowded = len(self.connections) >= CONNECTIONS
        self.scope["crowded"] = crowded  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there; what comes next is another head."""
        if self._head >= 0:
            return  # it comes again
        super().on_message_complete()
        self._in_time()
        self._head = 0

    def _in_time(self) -> None:
        if self._late:
            self._late.cancel()
