"""A client for the audits of a running service: start one, follow it, fetch its report and rows.

Only the standard library, so that the plain install has it. It follows no redirects, which would
carry the token elsewhere.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fend.audit.report import AuditDocument
from fend.audit.rows import ROWS, Row
from fend.errors import FendError
from fend.service_errors import ServiceRefused, ServiceUnreachable

AUDITS = "/v1/admin/audits"
TIMEOUT_S = 60.0
"""For the next bytes; the service is never silent for longer while an audit is followed."""
RETRY_S = 1.0
MAX_RETRIES = 600
"""In a row without an event: a restart takes seconds, an upgrade some minutes."""

AWAY = frozenset({502, 503, 504})
"""What a proxy, or a service on its way, answers for a while."""

T = TypeVar("T")


class AuditEndedElsewhere(FendError):
    """Somebody cancelled the audit while it was followed."""

    code = "audit_cancelled"


@dataclass(frozen=True)
class RemoteService:
    """A running service.

    Attributes:
        url: such as "http://127.0.0.1:8000", or with a path that stands before all of its routes.
        token: the admin token.
    """

    url: str
    token: str = field(repr=False)

    def start(self, body: Mapping[str, Any]) -> str:
        """Ask for an audit, as the fields of a request; its id.

        Raises:
            ServiceUnreachable, ServiceRefused.
        """
        text = self._read("POST", AUDITS, body)
        return str(self._parse(json.loads, text)["id"])

    def follow(self, audit_id: str, on_progress: Callable[[int, int], None]) -> None:
        """Return when the audit has succeeded; `on_progress` is told the images done, and all.

        Connects again when the connection breaks or the service restarts, and misses nothing.

        Raises:
            ServiceUnreachable: it does not come back.
            ServiceRefused: the audit failed (with the code of its error), or is not known.
            AuditEndedElsewhere.
        """
        last_id, retries = "", 0
        while retries <= MAX_RETRIES:
            try:
                for event_id, name, data in self._events(audit_id, last_id):
                    last_id, retries = event_id, 0
                    if name == "progress":
                        on_progress(data["done"], data["total"])
                    elif name == "end":
                        return check_end(data["state"], data["error_code"], data["error"])
            except ServiceUnreachable:
                pass  # it may be restarting
            retries += 1
            time.sleep(RETRY_S)
        raise ServiceUnreachable(
            f"{self.url} went silent; the audit {audit_id} goes on when it is back"
        )

    def document(self, audit_id: str) -> AuditDocument:
        """The report of an audit that has succeeded; raises ServiceUnreachable, ServiceRefused."""
        text = self._read("GET", f"{AUDITS}/{audit_id}/report?format=json")
        return self._parse(AuditDocument.model_validate_json, text)

    def rows(self, audit_id: str) -> list[Row]:
        """The raw rows; raises ServiceUnreachable, ServiceRefused."""
        lines = self._read("GET", f"{AUDITS}/{audit_id}/samples").splitlines()
        return self._parse(ROWS.validate_json, b"[" + b",".join(lines) + b"]")

    def _events(self, audit_id: str, last_id: str) -> Iterator[tuple[str, str, Any]]:
        """Server-sent events as (id, name, data), until the stream ends."""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        fields: dict[str, str] = {}
        with self._open("GET", f"{AUDITS}/{audit_id}/events", headers=headers) as answer:
            while line := self._reachable(answer.readline).decode():
                if line != "\n":
                    name, _, value = line.rstrip("\n").partition(": ")
                    fields[name] = value
                    continue
                if "data" in fields:
                    yield fields["id"], fields["event"], json.loads(fields["data"])
                fields = {}

    def _read(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        with self._open(method, path, body) as answer:
            return self._reachable(answer.read)

    def _open(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> HTTPResponse:
        """The answer, whose body is still to be read; closing it closes the connection."""
        target = urlsplit(self.url)
        if target.scheme not in ("http", "https") or not target.hostname:
            raise ServiceUnreachable(
                f"{self.url!r} is no URL of a service; give one such as http://127.0.0.1:8000"
            )
        connect = HTTPSConnection if target.scheme == "https" else HTTPConnection
        sent = {"Authorization": f"Bearer {self.token}", "Connection": "close", **headers}
        if body is not None:
            sent["Content-Type"] = "application/json"
        text = None if body is None else json.dumps(body).encode()

        def ask() -> HTTPResponse:
            connection = connect(str(target.hostname), target.port, timeout=TIMEOUT_S)
            connection.request(method, target.path.rstrip("/") + path, text, sent)
            return connection.getresponse()

        answer = self._reachable(ask)
        if answer.status >= 300:
            with answer:
                raise self._problem(answer.status, self._reachable(answer.read))
        return answer

    def _problem(self, status: int, text: bytes) -> FendError:
        try:
            problem = json.loads(text)
            code, detail = str(problem["code"]), str(problem["detail"])
        except (ValueError, TypeError, KeyError):
            code = detail = ""
        if code in ("", "not_found"):  # no service of ours, or a path that none of its routes has
            return ServiceUnreachable(
                f"{self.url} answers {status}, and not as a Fend service does; check the URL"
            )
        if status in AWAY:
            return ServiceUnreachable(f"{self.url} answers {status}: {detail}")
        return ServiceRefused(code, detail)

    def _parse(self, parse: Callable[[bytes], T], text: bytes) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise ServiceUnreachable(
                f"{self.url} answers otherwise than this version of Fend expects; use the version "
                "that runs there"
            ) from error

    def _reachable(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except (OSError, HTTPException) as error:
            raise ServiceUnreachable(
                f"{self.url} does not answer ({error}); is the service running there?"
            ) from error


def check_end(state: str, code: str, message: str) -> None:
    """Raise AuditEndedElsewhere or ServiceRefused where an audit ended without a report."""
    if state == "cancelled":
        raise AuditEndedElsewhere("the audit was cancelled")
    if state != "succeeded":
        raise ServiceRefused(code, f"the audit failed: {message}")
