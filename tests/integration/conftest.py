"""A client for audits on a real service, and a look at its processes."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

AUDITS = "/v1/admin/audits"
TIMEOUT_S = 120


class AuditClient:
    """Starts and follows audits on one service; `http` has the token."""

    def __init__(self, http: httpx.Client, pid: int) -> None:
        self.http = http
        self.pid = pid

    def start(self, body: dict[str, Any], **headers: str) -> str:
        """The id of a new audit."""
        response = self.http.post(AUDITS, json=body, headers=headers)
        assert response.status_code == 202, response.text
        assert response.headers["Location"] == f"{AUDITS}/{response.json()['id']}"
        audit_id: str = response.json()["id"]
        return audit_id

    def get(self, audit_id: str) -> dict[str, Any]:
        """The audit as it is now."""
        audit: dict[str, Any] = self.http.get(f"{AUDITS}/{audit_id}").json()
        return audit

    def wait_for(
        self, audit_id: str, condition: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        """The audit, once `condition` holds for it."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not condition(audit := self.get(audit_id)):
            assert time.monotonic() < deadline_s, audit
            time.sleep(0.05)
        return audit

    def finished(self, audit_id: str) -> dict[str, Any]:
        """The result of the audit, once it has succeeded."""
        audit = self.wait_for(audit_id, lambda audit: audit["state"] not in ("queued", "running"))
        assert audit["state"] == "succeeded", audit["error"]
        result: dict[str, Any] = audit["result"]
        return result

    def events(self, audit_id: str, last_id: str = "") -> Iterator[dict[str, Any]]:
        """The events of an audit after `last_id`, until the stream ends."""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        with self.http.stream(
            "GET", f"{AUDITS}/{audit_id}/events", headers=headers, timeout=TIMEOUT_S
        ) as stream:
            if stream.status_code == 204:
                return
            assert stream.status_code == 200, stream.status_code
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            fields: dict[str, Any] = {}
            for line in stream.iter_lines():
                name, _, value = line.partition(": ")
                if name:
                    fields[name] = value
                elif not line:
                    if "data" in fields:
                        yield {**fields, "data": json.loads(fields["data"])}
                    fields = {}

    def workers(self) -> set[int]:
        """The processes that this service has started and that live."""
        return children(self.pid)

    def worker(self) -> int:
        """The process that attacks for this service, once there is one."""
        [worker] = until(self.workers)
        return int(worker)


@pytest.fixture(scope="session")
def audit_service(
    run_server: Callable[..., AbstractContextManager[Any]],
) -> Callable[..., AbstractContextManager[AuditClient]]:
    """`with audit_service(models_dir, state_dir, **settings) as client:`"""

    @contextmanager
    def serve(models_dir: Path, state_dir: Path, **settings: object) -> Iterator[AuditClient]:
        # Other work on the machine must not keep these tests waiting.
        with run_server(
            models_dir, state_dir, **{"worker_priority": "normal", **settings}
        ) as server:
            headers = {"Authorization": f"Bearer {server.token}"}
            with httpx.Client(base_url=server.base_url, headers=headers, timeout=60) as http:
                yield AuditClient(http, server.process.pid)

    return serve


def children(pid: int) -> set[int]:
    """The processes that `pid` started and that live."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it ended while we looked
            continue
        if int(parent) == pid and state != "Z":
            found.add(int(stat.parent.name))
    return found


def until(condition: Callable[[], Any]) -> Any:
    """What `condition` gives, once that is something."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (value := condition()):
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.005)
    return value


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], Any]], Any]:
    """`wait_until(condition)` gives what the condition does, once that is something."""
    return until


@pytest.fixture(scope="session")
def until_dead() -> Callable[[int], None]:
    """`until_dead(pid)` returns when that process has ended."""

    def wait(pid: int) -> None:
        def dead() -> bool:
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                return True
            return stat.rpartition(")")[2].split()[0] == "Z"

        until(dead)

    return wait
