"""Connections: which are closed when nothing arrives, and how a stop closes none that has asked.

uvicorn waits for the head of a request without end, so a few thousand sockets that send a byte a
minute would keep everybody else out. And when it stops it closes what it has not read yet, which
the caller sees as a reset.
"""

import asyncio
import ctypes
import socket
import struct
import sys
from typing import TYPE_CHECKING, cast

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.runtime.gathered_writes import GatheredWrites
from service.runtime.hangup import HANGUP, Hangup

if TYPE_CHECKING:
    from service.api.gate import Gate

LAST_HEAD_S = 0.25
"""At the stop: how long a connection without a request may still bring one."""

SO_ATTACH_FILTER = 26
"""Linux; Python's socket module lacks the name."""

DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
"""Classic BPF over the TCP header: flags = byte 13; SYN set: drop; else let pass."""


def refuse_connections(listener: socket.socket) -> bool:
    """Start no new connection on `listener`; those begun are completed and can be accepted.

    A listening socket that is closed resets what waits in its queue, and accepting faster leaves
    the same gap, only smaller. So the kernel is told to drop SYNs first: a caller who comes now
    asks again after a second, and is then refused.

    Returns:
        False where the system has no such filter: the gap stays.
    """
    if sys.platform != "linux":
        return False
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in DROP_SYN))
    filter_ = struct.pack("HL", len(DROP_SYN), ctypes.addressof(program))
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)
    except OSError as error:  # a sandbox that does not know it
        structlog.get_logger().warning("stop_may_reset_connections", reason=error.strerror)
        return False
    return True


def protocol(head_timeout_s: float, max_connections: int, gate: "Gate") -> type[HttpToolsProtocol]:
    """uvicorn's protocol with a deadline for the head, so many connections at most, and a gate.

    With one too many, the one that has waited longest for a head makes room; where none waits, the
    new one is closed.
    """
    waiting: dict[HttpToolsProtocol, None] = {}  # for a head, the longest first

    class PunctualProtocol(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None
        _stopping = False
        _refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._hangup = Hangup()
            self._extensions = {HANGUP: self._hangup}
            gathered = cast(asyncio.Transport, GatheredWrites(transport, self.loop))
            super().connection_made(gathered)
            if len(self.connections) > max_connections:
                next(iter(waiting), self).transport.abort()
            if not transport.is_closing():
                self._await_head()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._await_head()

        def on_headers_complete(self) -> None:
            idle = self.cycle is None or self.cycle.response_complete
            plain = self.parser.get_method() == b"POST" and not self.expect_100_continue
            if idle and plain and gate.shut(len(self.tasks), self.url):
                self._refused = True  # when the body is through; until then the deadline runs on
                return
            self._head_came()
            super().on_headers_complete()
            self.scope["extensions"] = cast(dict[str, dict[object, object]], self._extensions)
            if self._stopping and self.cycle is not None:
                self.cycle.keep_alive = False

        def on_body(self, body: bytes) -> None:
            if not self._refused:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if not self._refused:
                super().on_message_complete()
                return
            self._refused = False
            self._head_came()
            if self.transport.is_closing():
                return
            close = self._stopping or not self.parser.should_keep_alive()
            self.transport.write(gate.refusal(self.server_state.default_headers, close=close))
            if close:
                self.transport.close()
            else:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

        def shutdown(self) -> None:
            # A request may be on its way, or lie unread: it is answered before the end.
            self._stopping = True
            if self.cycle is None or self.cycle.response_complete:
                self.loop.call_later(LAST_HEAD_S, super().shutdown)
            else:
                super().shutdown()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_came()
            super().connection_lost(exc)
            self._hangup.tell()

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
