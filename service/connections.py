"""What uvicorn lacks: deadlines of connections, limits of heads, and `Upgrade` ignored."""

import asyncio
import re

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES, MAX_FIELDS = 64 * 1024, 100
LINGER_S = 1.0  # an unread body is thrown away so long, so that its sender can read the answer
LAST_HEAD_S = 0.25  # at the stop, a connection may still bring a request for so long
UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)  # cut in two it is a 400, see below


def protocol(head_timeout_s: float, max_connections: int) -> type[HttpToolsProtocol]:
    """uvicorn's protocol; whoever waits longest for a head makes room for one connection more."""
    waiting: dict[HttpToolsProtocol, None] = {}

    class GuardedProtocol(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None
        _status, _head_bytes, _fields, _unparsed_bytes = 400, 0, 0, 0
        _in_body = _deaf = _stopping = _keep_alive = False

        def _wait(self, limit_s: float | None) -> None:  # None: there is a request to work on
            waiting.pop(self, None)
            if self._deadline is not None:
                self._deadline.cancel()
            if limit_s is not None:
                waiting[self] = None
                self._deadline = self.loop.call_later(limit_s, self.transport.abort)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                next(iter(waiting), self).transport.abort()
            if not transport.is_closing():
                self._wait(head_timeout_s)

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait(None)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if not self._in_body and UPGRADE.search(data):
                head, end, body = data.partition(b"\r\n\r\n")
                data = UPGRADE.sub(b"\r\nx-ignored:", head) + end + body
            self._unparsed_bytes += len(data)
            if not self._deaf:
                super().data_received(data)
            if self._unparsed_bytes > MAX_HEAD_BYTES and not self._deaf:
                self._status = 431 if self._fields else 414
                self.send_400_response("")

        def _count(self, size_bytes: int, status: int) -> None:
            self._head_bytes += size_bytes
            if self._head_bytes > MAX_HEAD_BYTES or self._fields > MAX_FIELDS:
                self._status = status
                raise ValueError  # the parser stops, and uvicorn calls send_400_response

        def on_message_begin(self) -> None:
            self._head_bytes = self._fields = 0
            super().on_message_begin()
            if self in waiting:
                self._wait(head_timeout_s)

        def on_url(self, url: bytes) -> None:
            self._count(len(url), 414)
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._fields += 1
            self._count(len(name) + len(value), 431)
            if not self._in_body:  # trailers say nothing to us
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            hosts = sum(name == b"host" for name, _ in self.headers)
            least = self.parser.get_http_version() >= "1.1"  # HTTP/1.0 may leave it out
            if self.parser.should_upgrade() or not least <= hosts <= 1:
                raise ValueError
            self._in_body, self._unparsed_bytes = True, 0
            self._wait(None)
            super().on_headers_complete()
            # Until the body is whole, an answer ends the connection: uvicorn says so in its head.
            self._keep_alive = self.cycle.keep_alive and not self._stopping
            self.cycle.keep_alive, self.cycle.transport = False, self  # type: ignore[assignment]

        def on_body(self, body: bytes) -> None:
            self._unparsed_bytes = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._in_body, self._unparsed_bytes = False, 0
            if not self.cycle.response_started:
                self.cycle.keep_alive = self._keep_alive
            super().on_message_complete()

        def on_response_complete(self) -> None:
            self.flow.resume_reading()
            if not self._deaf:
                super().on_response_complete()
            if not (self._deaf or self.pipeline or self.transport.is_closing()):
                self._wait(2 * self.timeout_keep_alive)

        def send_400_response(self, msg: str) -> None:  # noqa: ARG002
            self._deaf = True
            unanswered = self.cycle is not None and not self.cycle.response_complete
            if unanswered and (self.cycle.response_started or not self._in_body):
                self.cycle.keep_alive = False  # what came before is answered first
                return
            if unanswered:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            line = STATUS_LINE[self._status]
            head = b"content-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(line + head % (len(line) - 9) + line[9:])
            self._linger()

        def _linger(self) -> None:
            self._deaf = True
            self.transport.write_eof()
            self._wait(LINGER_S)

        # Of a transport, which a cycle takes this for.
        def write(self, data: bytes) -> None:
            self.transport.write(data)

        def is_closing(self) -> bool:
            return self._deaf or self.transport.is_closing()

        def close(self) -> None:
            self._linger() if self._in_body else self.transport.close()

        def shutdown(self) -> None:
            self._stopping = True  # a request may be on its way: it is answered before the end
            if self.cycle is None or self.cycle.response_complete:
                self.loop.call_later(LAST_HEAD_S, super().shutdown)
            else:
                super().shutdown()

    return GuardedProtocol
