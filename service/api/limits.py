"""What holds for every request: an id, a bounded body, a duration, a log line, and no bare 500.

Pure ASGI, so that routes still hear of a client that leaves.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fend.errors import FendError
from service.api.problems import fend_problem, problem_response
from service.api.request_id import new_request_id
from service.runtime.metrics import Metrics

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
QUIET_ROUTES = frozenset(
    {"/livez", "/readyz", "/healthz", "/metrics", "/v2/health/live", "/v2/health/ready"}
)
"""Asked every few seconds by machines; logged only when they fail."""

_log = structlog.get_logger()
"""One for all requests: making it anew takes as long as to fill in a line."""

LINGER_S = 1.0
"""How long the rest of a refused body is thrown away, so that its sender gets to read why."""


class BodyTooLarge(FendError):
    """The request body is longer than the service takes."""

    code = "body_too_large"


class RequestTooSlow(FendError):
    """The body did not arrive in time."""

    code = "request_too_slow"


class RequestLimits:
    """The outermost middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        metrics: Metrics,
        receive_timeout_s: float = 20.0,
        exceptions: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """`exceptions`: paths whose bodies have another limit, in bytes, and a deadline of their
        own."""
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._receive_timeout_s = receive_timeout_s
        self._exceptions = exceptions
        self._duration = cache(metrics.http_request_duration.labels)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_body_bytes = self._exceptions.get(scope["path"], self._max_body_bytes)
        timeout_s = None if scope["path"] in self._exceptions else self._receive_timeout_s
        private = scope["path"].startswith("/v1/admin/")
        exchange = _Exchange(
            receive, send, _request_id(scope), max_body_bytes, timeout_s, private=private
        )
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        started_s = time.perf_counter()
        try:
            if _content_length(scope) > max_body_bytes:
                await self._refuse(scope, exchange, max_body_bytes)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            structlog.get_logger().exception("unexpected error")
            if exchange.status is None:
                detail = f"the service failed; its log says more under {exchange.request_id}"
                response = problem_response(scope, 500, "internal_error", detail)
                await response(scope, exchange.receive, exchange.send)
        finally:
            self._record(scope, exchange, time.perf_counter() - started_s)

    async def _refuse(self, scope: Scope, exchange: "_Exchange", max_body_bytes: int) -> None:
        response = fend_problem(scope, _too_large(max_body_bytes))
        response.headers["Connection"] = "close"
        start: Message = {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        }
        await exchange.send(start)
        await exchange.send(
            {"type": "http.response.body", "body": response.body, "more_body": True}
        )
        await exchange.discard_body()
        await exchange.send({"type": "http.response.body", "body": b""})

    def _record(self, scope: Scope, exchange: "_Exchange", duration_s: float) -> None:
        if scope["state"].get("relayed"):  # by the worker that answered it
            return
        # The template, not the path: a label that callers can choose would fill the memory.
        route = getattr(scope.get("route"), "path", "unmatched")
        status = exchange.status or 499
        self._duration(scope["method"], route, status).observe(duration_s)
        if route in QUIET_ROUTES and status < 400:
            return
        _log.info(
            "request",
            method=scope["method"],
            route=route,
            status=status,
            duration_ms=round(1000 * duration_s, 2),
        )


class _Exchange:
    """One request and its response: counts what comes in, notes what goes out."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        request_id: str,
        max_body_bytes: int,
        timeout_s: float | None,
        *,
        private: bool,
    ) -> None:
        """`private`: what is answered is for administrators, and no cache may keep it."""
        self.request_id = request_id
        self._private = private
        self.status: int | None = None
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._received_bytes = 0
        self._timeout_s = timeout_s
        self._deadline_s: float | None = None

    async def receive(self) -> Message:
        message = await self._receive_in_time()
        if message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            if self._received_bytes > self._max_body_bytes:
                raise _too_large(self._max_body_bytes)
            if not message.get("more_body", False):
                self._timeout_s = None  # what comes next is only that the client leaves
        return message

    async def _receive_in_time(self) -> Message:
        if self._timeout_s is None:
            return await self._receive()
        if self._deadline_s is None:
            self._deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._deadline_s):
                return await self._receive()
        except TimeoutError as error:
            raise RequestTooSlow(
                f"the body did not arrive within {self._timeout_s:g} s; send it faster"
            ) from error

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.request_id
            headers["X-Content-Type-Options"] = "nosniff"
            if self._private:
                headers["Cache-Control"] = "no-store"
        await self._send(message)

    async def discard_body(self) -> None:
        """Read on without keeping anything, for a short while."""
        try:
            async with asyncio.timeout(LINGER_S):
                while (await self._receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass  # closing the connection is all that is left


def _too_large(max_body_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {max_body_bytes} bytes; send a smaller one")


def _request_id(scope: Scope) -> str:
    """The caller's id where it is harmless to log, else a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else new_request_id()


def _content_length(scope: Scope) -> int:
    given = Headers(scope=scope).get("content-length", "")
    return int(given) if given.isdecimal() else 0
