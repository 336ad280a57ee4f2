"""A state folder on a full disk: images are answered, audits wait, uploads are refused, nothing
that was accepted is lost, and all goes on by itself when there is room."""

import io
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from waiting import until

from fend.audit import AuditSpec
from fend.bundles import read_manifest
from service.audits import work as audit_work
from service.audits.messages import Task
from service.state.database import Database
from service.state.trouble import StateUnavailable

Digits = list[tuple[bytes, str]]

ROOT = Path(__file__).parents[2]
DISK_BYTES = 8 * 2**20
AUDITS, DATASETS = "/v1/admin/audits", "/v1/admin/datasets"
BODY = {
    "model": "mnist",
    "dataset": "rendered-digits",
    "samples": 18,
    "shard_size": 3,
    "sanity_samples": 0,
    "examples": 2,
    "threat": {"norm": "linf", "epsilon": 0.1},
    "attacks": [{"name": "fgsm"}, {"name": "pgd", "steps": 60, "early_stop": False}],
}


class SmallDisk:
    """A disk of 8 MiB: `fill` takes what is left of it, `free` gives that back."""

    def __init__(self, folder: Path, mount: list[str]) -> None:
        self.folder = folder
        self._mount = mount
        self._filler = folder / "filler"

    def fill(self, but_bytes: int = 0) -> None:
        """Leave `but_bytes` of it; where that is none, there is no room for another name either."""
        self._filler.mkdir(exist_ok=True)
        with (self._filler / "bytes").open("wb") as file:
            file.write(bytes(max(0, self.room_bytes() - but_bytes)))
        if not but_bytes:
            for number in range(os.statvfs(self.folder).f_favail):
                (self._filler / str(number)).touch()

    def room_bytes(self) -> int:
        left = os.statvfs(self.folder)
        return left.f_bavail * left.f_bsize

    def make_read_only(self) -> None:
        subprocess.run([*self._mount, "-o", "remount,ro", str(self.folder)], check=True)

    def free(self) -> None:
        shutil.rmtree(self._filler)


@pytest.fixture
def disk(tmp_path) -> Iterator[SmallDisk]:
    """A tmpfs of its own, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    mount = [*root, "mount"]
    options = f"size={DISK_BYTES},nr_inodes=200,mode=777"
    try:
        subprocess.run(
            [*mount, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
            check=True, capture_output=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk needs the right to mount a tmpfs: {error}")
    try:
        yield SmallDisk(folder, mount)
    finally:
        subprocess.run([*root, "umount", "-l", str(folder)], check=True)


class Service:
    """A running service, as its administrator sees it."""

    def __init__(self, http: httpx.Client, process: subprocess.Popen[str]) -> None:
        self.http = http
        self.process = process

    def start_audit(self) -> str:
        answer = self.http.post(AUDITS, json=BODY)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def wait_for(self, audit_id: str, condition: Callable[[dict[str, Any]], bool]) -> Any:
        return until(
            lambda: (audit := self.http.get(f"{AUDITS}/{audit_id}").json()),
            lambda audit: condition(audit),
        )

    def readiness(self) -> dict[str, Any]:
        answer = self.http.get("/readyz")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def assert_classifies(self, digits: Digits) -> None:
        answers = [
            self.http.post("/v1/classify", content=data, headers={"Content-Type": "image/png"})
            for data, _ in digits[:20]
        ]
        assert {answer.status_code for answer in answers} == {200}
        right = [a.json()["label"] == label for a, (_, label) in zip(answers, digits, strict=False)]
        assert sum(right) >= 18


@pytest.fixture
def serve(run_server, tiny_bundle_dir) -> Callable[[Path], AbstractContextManager[Service]]:
    @contextmanager
    def serving(state_dir: Path) -> Iterator[Service]:
        with run_server(tiny_bundle_dir, state_dir, worker_priority="normal") as server:
            headers = {"Authorization": f"Bearer {server.token}"}
            with httpx.Client(base_url=server.base_url, headers=headers, timeout=60) as http:
                yield Service(http, server.process)

    return serving


def has_ended(audit: dict[str, Any]) -> bool:
    return audit["state"] not in ("queued", "running")


def assert_no_room(answer: httpx.Response, status: int, code: str) -> None:
    """A typed problem that says what to do."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert "make room" in answer.json()["detail"]


def test_an_audit_waits_for_room_and_then_succeeds(serve, disk, digit_pngs):
    with serve(disk.folder) as service:
        audit_id = service.start_audit()
        queued = service.start_audit()
        service.wait_for(audit_id, lambda audit: audit["progress"]["done"] > 0)
        disk.fill()
        degraded = until(service.readiness, lambda ready: "degraded" in ready)["degraded"]
        assert "audits wait for the disk" in degraded
        assert "make room" in degraded
        service.assert_classifies(digit_pngs)
        assert_no_room(service.http.post(AUDITS, json=BODY), 503, "state_unavailable")
        assert_no_room(service.http.delete(f"{AUDITS}/{audit_id}"), 503, "state_unavailable")
        assert [audit["id"] for audit in service.http.get(AUDITS).json()["audits"]] == [
            queued, audit_id,
        ]  # fmt: skip
        waiting = service.http.get(f"{AUDITS}/{audit_id}").json()
        assert waiting["state"] == "running"
        assert "fend_state_failures_total 0.0" not in service.http.get("/metrics").text
        disk.free()
        interrupted, straight = (
            service.wait_for(accepted, has_ended) for accepted in (audit_id, queued)
        )
        for ended in (interrupted, straight):
            assert (ended["state"], ended["error"]) == ("succeeded", None)
        assert interrupted["result"] == straight["result"]
        assert service.readiness() == {"status": "ready"}
        assert service.http.get(AUDITS).json()["audits"][0]["id"] == queued, "nothing else was kept"
        service.wait_for(service.start_audit(), has_ended)


def test_a_service_that_starts_on_a_full_disk_serves_and_goes_on_later(serve, disk, digit_pngs):
    with serve(disk.folder) as service:
        audit_id = service.start_audit()
        service.wait_for(audit_id, lambda audit: audit["progress"]["done"] > 0)
        disk.fill()
        service.process.kill()
        service.process.wait()
    with serve(disk.folder) as service:
        service.assert_classifies(digit_pngs)
        kept = service.http.get(f"{AUDITS}/{audit_id}").json()
        assert kept["progress"]["done"] > 0
        until(service.readiness, lambda ready: "degraded" in ready)
        disk.free()
        ended = service.wait_for(audit_id, has_ended)
        assert (ended["state"], ended["progress"]["done"]) == ("succeeded", BODY["samples"])


@pytest.mark.parametrize("used_before", [False, True])
def test_a_start_that_cannot_write_is_told_in_a_line_and_changes_nothing(disk, used_before):
    database = Database(disk.folder)
    if used_before:
        database.open()
        database.close()
    else:
        disk.fill()
        with pytest.raises(StateUnavailable, match="make room") as refused:
            database.open()
        assert "\n" not in str(refused.value)
        disk.free()
    before = {path.name: path.read_bytes() for path in disk.folder.iterdir()}
    disk.make_read_only()
    with pytest.raises(StateUnavailable, match="set FEND_STATE_DIR") as refused:
        database.open()
    assert "\n" not in str(refused.value)
    assert {path.name: path.read_bytes() for path in disk.folder.iterdir()} == before


def test_an_upload_without_room_is_refused_and_leaves_nothing(serve, disk, digit_pngs):
    small, padded = data_set(digit_pngs, 0), data_set(digit_pngs, 2**20)
    no_room_for = {
        "one more name": (small, 0),
        "the file": (padded, 2**19),
        "what is in it": (small, 3 * 2**20),
    }
    with serve(disk.folder) as service:
        for file, left_bytes in no_room_for.values():
            disk.fill(left_bytes)
            answer = service.http.post(DATASETS, files={"file": file})
            assert_no_room(answer, 507, "dataset_storage_full")
            assert list((disk.folder / "datasets").iterdir()) == []
            assert service.http.get(DATASETS).json()["datasets"] == []
            disk.free()
        service.assert_classifies(digit_pngs)
        kept = service.http.post(DATASETS, files={"file": small})
        assert kept.status_code == 201
        disk.fill()
        room_bytes = disk.room_bytes()
        assert service.http.delete(kept.headers["Location"]).status_code == 204
        assert list((disk.folder / "datasets").iterdir()) == []
        assert disk.room_bytes() > room_bytes


def data_set(digits: Digits, padding_bytes: int) -> bytes:
    """A zip of class folders that is small, or padded, and takes some 4 MB when it is unpacked."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (data, label) in enumerate(digits[:40]):
            picture = io.BytesIO()
            Image.open(io.BytesIO(data)).save(picture, "BMP")
            archive.writestr(f"{label}/{number}.bmp", picture.getvalue() + bytes(100_000))
        archive.writestr("padding", os.urandom(padding_bytes))
    return file.getvalue()


def test_a_surrogate_that_cannot_be_kept_ends_the_audit_in_words(disk, tmp_path):
    """The worker itself; the service is told why, and how to go on."""
    version = read_manifest(ROOT / "models" / "mnist").version
    task = Task(
        spec=AuditSpec.model_validate({**BODY, "knowledge": ["black_box"]}),
        model_version=version,
        bundle_dir=ROOT / "models" / "mnist",
        models_dir=ROOT / "models",
        surrogates_dir=disk.folder / "surrogates",
        data_dir=tmp_path,
        uploaded=None,
        device="cpu",
        priority="normal",
        first_shard=0,
    )
    disk.fill()
    with pytest.raises(StateUnavailable, match="make room"):
        audit_work.run(task.model_dump_json(), lambda _: None)


def test_a_choice_of_version_that_cannot_be_kept_changes_nothing(serve, disk, digit_pngs):
    with serve(disk.folder) as service:
        models = service.http.get("/v1/admin/models").json()
        disk.fill()
        answer = service.http.post("/v1/admin/models/mnist/unload")
        assert_no_room(answer, 503, "state_unavailable")
        service.assert_classifies(digit_pngs)
        assert service.http.get("/v1/admin/models").json() == models
        assert not list(disk.folder.glob("*.new"))
