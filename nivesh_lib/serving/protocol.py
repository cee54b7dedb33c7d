"""HTTP connections that are closed where a request does not come to its end."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PATIENCE = 20.0  # seconds that a request may take to come, head and body
MAX_HEAD = 2**16  # bytes


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a deadline for requests and a limit on their heads.

    Without them, connections that say nothing would hold the places of others for ever, and a
    header that never ends would cost time that grows with its square.
    """

    _late: asyncio.TimerHandle | None = None
    _head = 0  # bytes of the head that is coming; -1 in a body

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
        self._head = -1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there; what comes next is another head."""
        super().on_message_complete()
        self._in_time()
        self._head = 0

    def _in_time(self) -> None:
        if self._late:
            self._late.cancel()
