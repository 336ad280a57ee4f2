"""Requests about audits, data sets and versions: only the leading worker can answer them.

The others hand them on as they are, body and answer streamed, and the leader sees the caller's
address. Until a leader that died is replaced they wait a little.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fend.errors import FendError
from service.api.problems import fend_problem
from service.runtime.lifecycle import Lifecycle
from service.workers.group import LEADER, Group

PREFIXES = ("/v1/admin/", "/v2/repository/models/", "/v1/models/")
"""The last because it names the last audit."""

PATIENCE_S = 30.0
"""Longer than a start takes."""
PAUSE_S = 0.1

_OF_ONE_CONNECTION = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_SAID_ANEW = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id", b"expect"})


class LeaderUnavailable(FendError):
    """The worker that keeps audits, data sets and versions gives no answer."""

    code = "leader_unavailable"


class Relay:
    """Middleware of every worker but the leader."""

    def __init__(self, app: ASGIApp, *, group: Group, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                uds=str(group.socket_of(LEADER)),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            ),
            timeout=None,  # events and `wait` take as long as they take
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIXES):
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._ask(Request(scope, receive))
        except FendError as error:
            await fend_problem(scope, error)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        scope["state"]["relayed"] = True  # counted and logged where it was answered
        response = StreamingResponse(_body(answer), answer.status_code)
        response.raw_headers = [
            (name.lower(), value)
            for name, value in answer.headers.raw
            if name.lower() not in _OF_ONE_CONNECTION
        ]
        try:
            await response(scope, receive, send)
        finally:
            await answer.aclose()

    async def _ask(self, request: Request) -> httpx.Response:
        """The leader's answer, of which only the head has been read.

        Raises:
            LeaderUnavailable, and what reading the body raises.
        """
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await self._client.send(self._handed_on(request), stream=True)
            except httpx.TransportError as error:
                # A request that changes something is sent again only where none of it was sent.
                again = isinstance(error, httpx.ConnectError) or request.method == "GET"
                if not again:
                    raise LeaderUnavailable(
                        "the worker that keeps audits, data sets and versions died before it "
                        "answered; look whether it did what you asked, then ask again"
                    ) from error
                if time.monotonic() > deadline_s or self._lifecycle.draining:
                    raise LeaderUnavailable(
                        "the worker that keeps audits, data sets and versions is not running; it "
                        "is started again: try again in a moment"
                    ) from error
            await asyncio.sleep(PAUSE_S)

    def _handed_on(self, request: Request) -> httpx.Request:
        scope = request.scope
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        dropped = _OF_ONE_CONNECTION | _SAID_ANEW
        headers = [(name, value) for name, value in scope["headers"] if name not in dropped]
        headers.append((b"x-request-id", scope["state"]["request_id"].encode()))
        headers.append((b"x-forwarded-proto", scope["scheme"].encode()))
        if request.client is not None:
            headers.append((b"x-forwarded-for", request.client.host.encode()))
        has_body = not {b"content-length", b"transfer-encoding"}.isdisjoint(dict(scope["headers"]))
        url = httpx.URL(scheme="http", host="leader", raw_path=scope["raw_path"] + query)
        # Not `build_request`, which adds headers of its own.
        body = request.stream() if has_body else None
        return httpx.Request(request.method, url, headers=headers, content=body)


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx.TransportError:
        structlog.get_logger().warning("the leading worker died in the middle of an answer")
        raise
