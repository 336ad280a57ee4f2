"""What holds for every request: an id, a key where one is due, a bounded body, a duration, a log
line, no bare 500; and overload is refused before anything is read.

Pure ASGI, so that routes still hear of a client that leaves.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from functools import cache, lru_cache
from random import Random
from urllib.parse import parse_qs, urlsplit, urlunsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fend.errors import Busy, FendError, Timeout, TooLarge
from service.api.content_coding import DecodedBody
from service.api.problems import ClientGone, Problem, fend_problem, problem_response, written
from service.api.security import PRIVATE, require_admin
from service.api.services import Services

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
QUIET_ROUTES = frozenset(
    {"/livez", "/readyz", "/healthz", "/metrics", "/v2/health/live", "/v2/health/ready"}
)
"""Asked every few seconds by machines; logged only when they fail."""

ASKED_OF_A_MODEL = re.compile(
    r"/v1/(?:classify(?:/batch)?|denoise)|/v2/models/([^/]+)/(?:versions/[^/]+/)?infer"
)
LOG_EVERY_S = 1.0
"""Refusals of overload get one line in this time: there can be thousands."""

_log = structlog.get_logger()
"""One for all requests: making it anew takes as long as to fill in a line."""

_ID = "{request_id}"

# Seeded by the system, once: nobody has to be kept from guessing an id.
_RANDOM = Random()


class Prefix:
    """Notes a proxy's prefix, and takes it off the path where the proxy left it on, so that what
    follows compares paths without it, as the router does."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["root_path"] = self._root_path
            while scope["path"].startswith(f"{self._root_path}/"):  # the router would take another
                scope["path"] = scope["path"].removeprefix(self._root_path)
            if scope["path"] == self._root_path:
                scope["path"] = "/"
        await self._app(scope, receive, send)


class Overload:
    """While a model's queue is full, whoever asks it is refused before the request costs anything,
    so this stands before all that costs something. To route and read it in the app would take half
    as long as to answer it, so at twice the load that can be borne refusing would take the time of
    answers."""

    def __init__(self, app: ASGIApp, *, services: Services) -> None:
        self._app = app
        self._repository = services.repository
        self._duration = cache(services.metrics.http_request_duration.labels)
        self._rejected = services.metrics.requests_rejected.labels("overloaded")
        self._unlogged = 0
        self._logged_s = -LOG_EVERY_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        request_id = _request_id(scope)
        headers, text = _refused(
            scope["path"], scope.get("root_path", ""), refusal.retry_after_s or 1, str(refusal)
        )
        body = text.replace(_ID, request_id).encode()
        headers = [
            *headers,
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
        ]
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        route = _route(scope["path"])
        self._rejected.inc()
        self._duration("POST", route, 429).observe(time.perf_counter() - started_s)
        self._log(route)

    def _refusal(self, scope: Scope) -> Busy | None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        asked = ASKED_OF_A_MODEL.fullmatch(scope["path"])
        if asked is None:
            return None
        query = scope["query_string"]
        name = asked[1] or (parse_qs(query.decode("latin-1")).get("model", [None])[-1])
        try:
            self._repository.get(name).batcher.check_room()
        except Busy as refusal:
            return refusal
        except FendError:  # the app says what is wrong
            return None
        return None

    def _log(self, route: str) -> None:
        self._unlogged += 1
        now_s = time.monotonic()
        if now_s - self._logged_s < LOG_EVERY_S:
            return
        _log.warning("overloaded", route=route, code="overloaded", since_last_line=self._unlogged)
        self._unlogged, self._logged_s = 0, now_s


class RequestLimits:
    """Around everything else."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        services: Services,
        max_body_bytes: Mapping[str, int],
        without_deadline: str,
    ) -> None:
        """`max_body_bytes`: the largest body by how a path begins; the first that fits counts.
        `without_deadline`: the path whose bodies have a deadline of their own."""
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._receive_timeout_s = services.settings.receive_timeout_s
        self._without_deadline = without_deadline
        self._duration = cache(services.metrics.http_request_duration.labels)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        if method == "HEAD":  # what GET answers; uvicorn leaves the body out
            scope = {**scope, "method": "GET"}
        max_body_bytes = next(
            limit for prefix, limit in self._max_body_bytes.items() if path.startswith(prefix)
        )
        timeout_s = None if path == self._without_deadline else self._receive_timeout_s
        private = path.startswith(PRIVATE)
        _begin(scope)
        scope["state"]["head"] = method == "HEAD"
        exchange = _Exchange(scope, receive, send, max_body_bytes, timeout_s, private=private)
        started_s = time.perf_counter()
        try:
            if private:
                await require_admin(Request(scope))
            await self._app(scope, exchange.body(scope), exchange.send)
        except FendError as error:
            await fend_problem(scope, error)(scope, exchange.receive, exchange.send)
        except Exception:
            structlog.get_logger().exception("unexpected error")
            if exchange.status is None:
                request_id = scope["state"]["request_id"]
                detail = f"the service failed; its log says more under {request_id}"
                response = problem_response(scope, 500, "internal_error", detail)
                await response(scope, exchange.receive, exchange.send)
        finally:
            self._record(scope, method, exchange.status, time.perf_counter() - started_s)

    def _record(self, scope: Scope, method: str, status: int | None, duration_s: float) -> None:
        # The template, not the path: a label that callers can choose would fill the memory.
        route = getattr(scope.get("route"), "path", "unmatched")
        status = status or ClientGone.status
        self._duration(method, route, status).observe(duration_s)
        if route in QUIET_ROUTES and status < 400:
            return
        _log.info(
            "request",
            method=method,
            route=route,
            status=status,
            duration_ms=round(1000 * duration_s, 2),
        )


class _Exchange:
    """One request and its response: counts what comes in, notes what goes out."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        max_body_bytes: int,
        timeout_s: float | None,
        *,
        private: bool,
    ) -> None:
        """`private`: what is answered is for administrators, and no cache may keep it."""
        self._request_id = scope["state"]["request_id"]
        self._root_path = scope.get("root_path", "")
        self._private = private
        self.status: int | None = None
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._received_bytes = 0
        self._complete = False
        self._timeout_s = timeout_s
        self._deadline_s: float | None = None

    def body(self, scope: Scope) -> Receive:
        """What receives the body, decoded where it comes compressed.

        Raises:
            TooLarge: it says itself that it is too long.
        """
        headers = Headers(scope=scope)
        content_length = headers.get("content-length", "")
        if content_length.isdecimal() and int(content_length[:20]) > self._max_body_bytes:
            raise self._too_large()
        if not (encodings := headers.getlist("content-encoding")):
            return self.receive
        coded = (b"content-encoding", b"content-length")
        scope["headers"] = [field for field in scope["headers"] if field[0] not in coded]
        return DecodedBody(
            ",".join(encodings), self.receive, self._too_large(), self._max_body_bytes
        )

    async def receive(self) -> Message:
        message = await self._receive_in_time()
        if message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            if self._received_bytes > self._max_body_bytes:
                raise self._too_large()
            self._complete = not message.get("more_body", False)
        elif not self._complete:
            raise ClientGone("the client left before the request was complete")
        return message

    async def _receive_in_time(self) -> Message:
        if self._timeout_s is None or self._complete:  # then only the client's leaving comes
            return await self._receive()
        if self._deadline_s is None:
            self._deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._deadline_s):
                return await self._receive()
        except TimeoutError as error:
            raise Timeout(
                f"the body did not arrive within {self._timeout_s:g} s; send it faster",
                code="request_too_slow", status=408,
            ) from error  # fmt: skip

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            headers["X-Content-Type-Options"] = "nosniff"
            if self._private:
                headers["Cache-Control"] = "no-store"
            if "location" in headers:  # nothing in it is the caller's, such as Host
                url = urlsplit(headers["location"])
                headers["location"] = urlunsplit(
                    ("", "", self._root_path + url.path, url.query, "")
                )
        await self._send(message)

    def _too_large(self) -> TooLarge:
        limit = self._max_body_bytes
        return TooLarge(
            f"the body has more than {limit} bytes; send a smaller one", code="body_too_large"
        )


def _begin(scope: Scope) -> None:
    request_id = _request_id(scope)
    scope.setdefault("state", {})["request_id"] = request_id
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)


def _request_id(scope: Scope) -> str:
    """The caller's where it is harmless to log, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and (given := REQUEST_ID.fullmatch(value.decode("latin-1"))):
            return given[0]
    return f"{_RANDOM.getrandbits(64):016x}"


@lru_cache(maxsize=256)
def _refused(
    path: str, root_path: str, retry_after_s: float, detail: str
) -> tuple[list[tuple[bytes, bytes]], str]:
    """Headers and body of the answer to whoever is too many, with `_ID` in place of the id."""
    problem = Problem(
        title="Too Many Requests", status=429, detail=detail, instance=root_path + path,
        code="overloaded", request_id=_ID,
    )  # fmt: skip
    media_type, body = written(path, problem)
    headers = [
        (b"retry-after", f"{retry_after_s:.0f}".encode()),
        (b"content-type", media_type.encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    return headers, body


@lru_cache(maxsize=256)
def _route(path: str) -> str:
    """The route of a path that `ASKED_OF_A_MODEL` has found."""
    return re.sub("/(models|versions)/[^/]+", _placeholder, path)


def _placeholder(found: re.Match[str]) -> str:
    return "/models/{name}" if found[1] == "models" else "/versions/{version}"
