"""Audits on a real service: the command line's numbers, and what kill -9 and cancelling leave."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

TIMEOUT_S = 60
AUDITS = "/v1/admin/audits"
BODY = {
    "preset": "quick",
    "model": "mnist",
    "dataset": "rendered-digits",
    "samples": 75,
    "seed": 3,
    "threat": {"norm": "linf", "epsilon": 0.1},
}
SLOW = {**BODY, "attacks": [{"name": "pgd", "steps": 5000, "early_stop": False}]}
"""Takes longer than any test, in one shard."""

RunServer = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def expected(tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `fend audit` says of `BODY`, undisturbed."""
    file = tmp_path_factory.mktemp("cli") / "report.json"
    command = [
        sys.executable, "-c", "from fend.cli import main; main()", "audit",
        str(tiny_bundle_dir / "mnist"), "--dataset", "rendered-digits", "--samples", "75",
        "--seed", "3", "--epsilon", "0.1", "--workers", "2", "--device", "cpu",
        "--output", str(file),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    result: dict[str, Any] = json.loads(file.read_text())["result"]
    return result


@pytest.fixture(scope="module")
def admin(
    run_server: RunServer, tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of one service for the whole file, with the token."""
    with run_server(tiny_bundle_dir, tmp_path_factory.mktemp("audits")) as server:
        client = client_of(server)
        client.headers["X-Server-Pid"] = str(server.process.pid)
        with client:
            yield client


def client_of(server: Any) -> httpx.Client:
    headers = {"Authorization": f"Bearer {server.token}"}
    return httpx.Client(base_url=server.base_url, headers=headers, timeout=30)


def start(client: httpx.Client, body: dict[str, Any], **headers: str) -> str:
    response = client.post(AUDITS, json=body, headers=headers)
    assert response.status_code == 202, response.text
    assert response.headers["Location"] == f"{AUDITS}/{response.json()['id']}"
    audit_id: str = response.json()["id"]
    return audit_id


def wait_for(
    client: httpx.Client, audit_id: str, condition: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The audit, once `condition` holds for it."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        audit: dict[str, Any] = client.get(f"{AUDITS}/{audit_id}").json()
        if condition(audit):
            return audit
        assert time.monotonic() < deadline_s, audit
        time.sleep(0.05)


def has_ended(audit: dict[str, Any]) -> bool:
    return audit["state"] not in ("queued", "running")


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


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], Any]) -> Any:
    """What `condition` gives, once that is something."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (value := condition()):
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.005)
    return value


def server_pid(client: httpx.Client) -> int:
    return int(client.headers["X-Server-Pid"])


def test_an_audit_over_http_equals_the_command_line(
    admin: httpx.Client, expected: dict[str, Any]
) -> None:
    audit_id = start(admin, BODY)
    early = admin.get(f"{AUDITS}/{audit_id}/report")
    assert early.status_code == 409
    assert early.json()["code"] == "audit_not_finished"

    partial = wait_for(admin, audit_id, lambda audit: audit["progress"]["done"] > 0)
    assert partial["result"]["identity"]["n"] == partial["progress"]["done"]

    audit = wait_for(admin, audit_id, has_ended)
    assert audit["state"] == "succeeded", audit["error"]
    assert audit["result"] == expected
    report = f"{AUDITS}/{audit_id}/report"
    document = admin.get(report).json()
    assert document["result"] == expected
    assert document["timing"]["wall_time_s"] > 0

    markdown = admin.get(report, headers={"Accept": "text/markdown"})
    assert markdown.headers["Content-Type"].startswith("text/markdown")
    assert expected["verdict"] in markdown.text
    assert admin.get(report, params={"format": "markdown"}).text == markdown.text

    rows = [json.loads(line) for line in admin.get(f"{AUDITS}/{audit_id}/samples").iter_lines()]
    assert sum(row["kind"] == "clean" for row in rows) == 75
    assert sum(row["kind"] == "attack" for row in rows) == 75 * 4
    assert audit_id in [audit["id"] for audit in admin.get(AUDITS).json()["audits"]]

    late = admin.delete(f"{AUDITS}/{audit_id}")
    assert (late.status_code, late.json()["code"]) == (409, "audit_ended")
    assert 'fend_audits_total{state="succeeded"} 1.0' in admin.get("/metrics").text


@pytest.mark.parametrize(
    ("change", "status", "code", "says"),
    [
        ({"attacks": [{"name": "magic"}]}, 422, "audit_spec_invalid", "'fgsm', 'pgd'"),
        ({"preset": "slow"}, 422, "audit_spec_invalid", "paper, quick"),
        ({"model": "nothing"}, 404, "model_unknown", "mnist"),
        ({"dataset": "mnist:test"}, 422, "dataset_missing", "FEND_DATA_DIR"),
        ({"dataset": "mnits"}, 422, "dataset_unknown", "rendered-digits"),
        ({"dataset": "npz:/etc/passwd"}, 422, "audit_spec_invalid", "may not read"),
    ],
)
def test_what_cannot_run_is_refused_at_once(
    admin: httpx.Client, change: dict[str, Any], status: int, code: str, says: str
) -> None:
    response = admin.post(AUDITS, json={**BODY, **change})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert says in response.json()["detail"]


def test_audits_need_the_token(admin: httpx.Client) -> None:
    for method, path in [("POST", ""), ("GET", ""), ("GET", "/x"), ("GET", "/x/report"),
                         ("GET", "/x/samples"), ("DELETE", "/x")]:  # fmt: skip
        response = admin.request(
            method, AUDITS + path, headers={"Authorization": "Bearer wrong"}, json={}
        )
        assert response.status_code == 401, (method, path)
    assert admin.get(f"{AUDITS}/x").json()["code"] == "audit_unknown"


def test_cancelling_ends_the_attack_and_frees_the_queue(admin: httpx.Client) -> None:
    slow, waiting = start(admin, SLOW), start(admin, SLOW)
    behind = start(admin, {**BODY, "samples": 2})
    [worker] = until(lambda: children(server_pid(admin)))
    assert admin.delete(f"{AUDITS}/{waiting}").json()["state"] == "cancelled"
    assert admin.delete(f"{AUDITS}/{slow}").json()["state"] == "cancelled"
    until(lambda: not is_alive(worker))
    assert wait_for(admin, behind, has_ended)["state"] == "succeeded"
    for cancelled in (slow, waiting):
        again = admin.delete(f"{AUDITS}/{cancelled}")
        assert (again.status_code, again.json()["state"]) == (200, "cancelled")


def test_a_killed_worker_is_replaced_and_changes_nothing(
    admin: httpx.Client, expected: dict[str, Any]
) -> None:
    audit_id = start(admin, BODY)
    wait_for(admin, audit_id, lambda audit: audit["progress"]["done"] > 0)
    [worker] = until(lambda: children(server_pid(admin)))
    os.kill(worker, signal.SIGKILL)
    audit = wait_for(admin, audit_id, has_ended)
    assert audit["state"] == "succeeded", audit["error"]
    assert audit["result"] == expected


def test_an_audit_whose_worker_dies_again_and_again_fails(admin: httpx.Client) -> None:
    audit_id = start(admin, SLOW)
    killed: set[int] = set()
    for _ in range(4):
        [worker] = until(lambda: children(server_pid(admin)) - killed)
        killed.add(worker)
        os.kill(worker, signal.SIGKILL)
    audit = wait_for(admin, audit_id, has_ended)
    assert (audit["state"], audit["error"]["code"]) == ("failed", "audit_worker_died")
    assert "signal 9" in audit["error"]["message"]
    assert admin.get(f"{AUDITS}/{audit_id}/report").json()["code"] == "audit_not_finished"


def test_one_key_is_one_audit(admin: httpx.Client) -> None:
    small = {**BODY, "samples": 2}
    first = start(admin, small, **{"Idempotency-Key": "k"})
    assert start(admin, small, **{"Idempotency-Key": "k"}) == first
    other = admin.post(AUDITS, json=BODY, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_waiting_answers_with_the_finished_audit(admin: httpx.Client) -> None:
    done = admin.post(AUDITS, json={**BODY, "samples": 2}, params={"wait": 30})
    assert (done.status_code, done.json()["state"]) == (200, "succeeded")
    assert done.json()["result"]["identity"]["n"] == 2
    slow = admin.post(AUDITS, json=SLOW, params={"wait": 0.1})
    assert slow.status_code == 202
    admin.delete(slow.headers["Location"])


def test_an_audit_survives_the_death_of_the_service(
    run_server: RunServer, tiny_bundle_dir: Path, tmp_path: Path, expected: dict[str, Any]
) -> None:
    with run_server(tiny_bundle_dir, tmp_path) as server, client_of(server) as client:
        audit_id = start(client, BODY)
        queued = start(client, {**BODY, "samples": 2})
        wait_for(client, audit_id, lambda audit: audit["progress"]["done"] > 0)
        [worker] = children(server.process.pid)
        server.process.kill()
        server.process.wait()
        until(lambda: not is_alive(worker))
    with run_server(tiny_bundle_dir, tmp_path) as server, client_of(server) as client:
        resumed = client.get(f"{AUDITS}/{audit_id}").json()
        assert resumed["progress"]["done"] > 0, "finished shards are kept"
        audit = wait_for(client, audit_id, has_ended)
        assert audit["state"] == "succeeded", audit["error"]
        assert audit["result"] == expected
        assert wait_for(client, queued, has_ended)["state"] == "succeeded"
