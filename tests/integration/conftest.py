"""A client for audits on a real service, and a look at its processes."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from small_bundles import save_like
from waiting import until

from fend.models.architectures.unet import ResidualUNet

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
        return response.json()["id"]

    def get(self, audit_id: str) -> dict[str, Any]:
        """The audit as it is now."""
        return self.http.get(f"{AUDITS}/{audit_id}").json()

    def wait_for(
        self, audit_id: str, condition: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        """The audit, once `condition` holds for it."""
        return until(lambda: self.get(audit_id), condition)

    def finished(self, audit_id: str) -> dict[str, Any]:
        """The result of the audit, once it has succeeded."""
        audit = self.wait_for(audit_id, lambda audit: audit["state"] not in ("queued", "running"))
        assert audit["state"] == "succeeded", audit["error"]
        return audit["result"]

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
def audit_service(run_server) -> Callable[..., AbstractContextManager[AuditClient]]:
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


@pytest.fixture
def models_dir(tiny_bundle_dir: Path, tmp_path: Path) -> Path:
    """The tiny bundle, and in `versions` another one with other answers."""
    model = tmp_path / "models" / "mnist"
    shutil.copytree(tiny_bundle_dir / "mnist", model)
    torch.manual_seed(7)
    denoiser = ResidualUNet(width=4)
    with torch.no_grad():
        denoiser.last.weight.normal_(0, 0.2)
    denoising = ("residual-unet", {"width": 4}, denoiser)
    save_like(model, model / "versions" / "new", name="mnist", denoiser=denoising)
    return model.parent


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
