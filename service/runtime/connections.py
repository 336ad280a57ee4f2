"""Connections on which nothing arrives: closed after a while, and first when room is short.

uvicorn waits for the head of a request without end, so a few thousand sockets that send a byte a
minute would keep everybody else out.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def protocol(head_timeout_s: float, max_connections: int) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with a deadline for the head, and so many connections at most.

    With one too many, the one that has waited longest for a head makes room; where none waits, the
    new one is closed.
    """
    waiting: dict[HttpToolsProtocol, None] = {}  # for a head, the longest first

    class PunctualProtocol(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                next(iter(waiting), self).transport.abort()
            if not transport.is_closing():
                self._await_head()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._await_head()

        def on_headers_complete(self) -> None:
            self._head_came()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_came()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            self._head_came()
            waiting[self] = None
            self._deadline = self.loop.call_later(head_timeout_s, self.transport.abort)

        def _head_came(self) -> None:
            waiting.pop(self, None)
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return PunctualProtocol
