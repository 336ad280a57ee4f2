"""Refuses callers before their request costs anything, while more is in the works than may be.

To route, read and refuse a request in the app takes the event loop half as long as to answer one.
At twice the load that can be borne, refusing would then take the time that answers need, and
refusals would be late, too. The gate knows only how much is in the works, and answers in bytes.
"""

import json
import time
from urllib.parse import parse_qsl

import structlog

from fend.errors import FendError
from service.api.classify_lane import PATH
from service.api.problems import MEDIA_TYPE
from service.api.request_id import new_request_id
from service.inference.repository import Repository
from service.runtime.metrics import Metrics

URL = PATH.encode()
RETRY_AFTER_S = 1
DETAIL = f"the service has all the work it can take; retry in {RETRY_AFTER_S} s"
LOG_EVERY_S = 1.0

FEWEST = 64
"""Requests that may always be in the works: some read their body, or are probes."""


ID_CHARACTERS = len(new_request_id())
_BODY = json.dumps(
    {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": DETAIL,
        "instance": PATH,
        "code": "overloaded",
        "request_id": "%b",
    }
).encode()
_RESPONSE = (
    f"HTTP/1.1 429 Too Many Requests\r\n%bcontent-length: {len(_BODY) - 2 + ID_CHARACTERS}\r\n"
    f"content-type: {MEDIA_TYPE}\r\nretry-after: {RETRY_AFTER_S}\r\nx-request-id: %b\r\n"
    "x-content-type-options: nosniff\r\n%b\r\n%b"
).encode()
"""Made once: only these places differ from one refusal to another."""


class Gate:
    """Shut for a model while its queue is full and as many requests are in the works, and not
    before `FEWEST` are. What is asked of other models still comes in."""

    def __init__(self, repository: Repository, metrics: Metrics) -> None:
        self._repository = repository
        self._rejected = metrics.requests_rejected.labels("overloaded")
        self._duration = metrics.http_request_duration.labels("POST", PATH, 429)
        self._unlogged = 0
        self._logged_s = -LOG_EVERY_S

    def shut(self, in_the_works: int, url: bytes) -> bool:
        """Whether a request for an answer is to be refused now."""
        if in_the_works < FEWEST or not url.startswith(URL):
            return False
        path, _, query = url.partition(b"?")
        if path != URL:
            return False
        name = dict(parse_qsl(query.decode("latin-1"))).get("model") if query else None
        try:
            model = self._repository.get(name)
        except (FendError, ValueError):
            return False  # the app says what is wrong with it
        return in_the_works >= model.limits.queue_size and model.batcher.full

    def refusal(self, default_headers: list[tuple[bytes, bytes]], *, close: bool) -> bytes:
        """The whole response, as the app would refuse; counted, and logged once a second."""
        self._rejected.inc()
        self._duration.observe(0.0)
        self._log()
        head = b"".join([b"%b: %b\r\n" % header for header in default_headers])
        connection = b"connection: close\r\n" if close else b""
        request_id = new_request_id().encode()
        return _RESPONSE % (head, request_id, connection, _BODY % request_id)

    def _log(self) -> None:
        self._unlogged += 1
        now_s = time.monotonic()
        if now_s - self._logged_s < LOG_EVERY_S:
            return
        structlog.get_logger().warning(
            "refused at the gate", route=PATH, code="overloaded", since_last_line=self._unlogged
        )
        self._unlogged, self._logged_s = 0, now_s
