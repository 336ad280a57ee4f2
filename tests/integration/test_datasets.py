"""Uploading data sets to a real service, auditing on them, deleting them."""

import io
import os
import signal
import socket
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

AUDITS = "/v1/admin/audits"
DATASETS = "/v1/admin/datasets"
ZIP = {"Content-Type": "application/zip"}
MAX_BYTES = 300_000
Digits = list[tuple[bytes, str]]


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def audits(audit_service, tiny_bundle_dir, state_dir) -> Iterator[Any]:
    """A client of one service for the whole file."""
    with audit_service(
        tiny_bundle_dir, state_dir, max_dataset_bytes=MAX_BYTES, max_datasets_bytes=2 * MAX_BYTES,
        max_body_bytes=50_000, worker_priority="low",
    ) as client:  # fmt: skip
        yield client


def folders(digits: Digits) -> bytes:
    """A zip of class folders."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, (data, label) in enumerate(digits):
            archive.writestr(f"{label}/{number}.png", data)
    return file.getvalue()


def arrays(count: int) -> bytes:
    """An .npz of black images."""
    file = io.BytesIO()
    np.savez(file, images=np.zeros((count, 28, 28), np.uint8), labels=np.arange(count) % 10)
    return file.getvalue()


def test_an_uploaded_set_is_audited_over_a_restart_and_cannot_vanish_before(
    audit_service, tiny_bundle_dir, tmp_path, digit_pngs
):
    with audit_service(tiny_bundle_dir, tmp_path) as audits:
        answer = audits.http.post(
            DATASETS, params={"model": "mnist"}, files={"file": folders(digit_pngs[:6])}
        )
        assert answer.status_code == 201, answer.text
        kept = answer.json()
        body = {
            "model": "mnist", "dataset": kept["dataset"], "shard_size": 3, "sanity_samples": 0,
            "threat": {"epsilon": 0.1}, "attacks": [{"name": "pgd", "steps": 500}],
        }  # fmt: skip
        audit_id = audits.start(body)
        in_use = audits.http.delete(answer.headers["Location"])
        assert (in_use.status_code, in_use.json()["code"]) == (409, "dataset_in_use")
    (tmp_path / "datasets" / ".incoming-left").mkdir()
    with audit_service(tiny_bundle_dir, tmp_path) as audits:
        result = audits.finished(audit_id)
        assert result["identity"]["dataset"] == kept["dataset"]
        assert result["identity"]["dataset_digest"] == kept["digest"]
        clean = result["clean"]["defended"]
        assert (clean["correct"], clean["n"]) == (6, 6)
        assert audits.http.delete(answer.headers["Location"]).status_code == 204
        assert audits.http.get(answer.headers["Location"]).json()["code"] == "upload_unknown"
        assert audits.http.get(f"{AUDITS}/{audit_id}/report").status_code == 200
    assert list((tmp_path / "datasets").iterdir()) == []


def test_sets_are_listed_and_kept_once(audits):
    data = arrays(20)
    first = audits.http.post(DATASETS, content=data, headers=ZIP)
    assert first.status_code == 201, first.text
    again = audits.http.post(DATASETS, files={"other": b"x", "file": data})
    assert (again.status_code, again.json()) == (200, first.json())
    listed = audits.http.get(DATASETS).json()
    assert listed["datasets"] == [first.json()]
    assert 20 * 28 * 28 < listed["bytes"] < listed["max_bytes"]
    assert first.json()["images_by_label"] == {str(label): 2 for label in range(10)}
    assert audits.http.get(first.headers["Location"]).json() == first.json()
    assert audits.http.delete(first.headers["Location"]).status_code == 204


@pytest.mark.parametrize(
    ("send", "status", "code"),
    [
        ({"content": arrays(3)}, 415, "unsupported_media_type"),
        ({"data": {"file": "x"}}, 415, "unsupported_media_type"),
        ({"files": {"image": arrays(3)}}, 422, "file_missing"),
        (
            {"content": b"no form", "headers": {"Content-Type": "multipart/form-data"}},
            400, "form_invalid",
        ),
        (
            {"content": b"no form", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            400, "form_invalid",
        ),
        ({"content": b"no zip", "headers": ZIP}, 422, "dataset_invalid"),
        ({"content": folders([(b"no image", "3")]), "headers": ZIP}, 422, "dataset_invalid"),
        ({"content": bytes(2 * MAX_BYTES), "headers": ZIP}, 413, "body_too_large"),
        ({"content": iter([bytes(MAX_BYTES), b"1"]), "headers": ZIP}, 413, "dataset_too_large"),
        ({"content": b"", "headers": ZIP, "params": {"model": "no"}}, 404, "model_unknown"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_and_leaves_nothing(audits, state_dir, send, status, code):
    answer = audits.http.post(DATASETS, **send)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert str(state_dir) not in answer.text
    assert list((state_dir / "datasets").iterdir()) == []


def test_the_disk_space_for_all_sets_is_bounded(audits):
    kept = [audits.http.post(DATASETS, content=arrays(count), headers=ZIP) for count in (350, 351)]
    assert [answer.status_code for answer in kept] == [201, 201]
    full = audits.http.post(DATASETS, content=arrays(352), headers=ZIP)
    assert (full.status_code, full.json()["code"]) == (507, "dataset_storage_full")
    for answer in kept:
        audits.http.delete(answer.headers["Location"])
    assert audits.http.post(DATASETS, content=arrays(352), headers=ZIP).status_code == 201


def test_whoever_leaves_while_an_upload_is_checked_frees_the_place(audits, state_dir):
    before = set((state_dir / "datasets").iterdir())
    body = arrays(4)
    address = urlsplit(str(audits.http.base_url))
    with socket.create_connection((address.hostname, address.port)) as leaving:
        head = (
            f"POST {DATASETS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/zip\r\n"
            f"Authorization: {audits.http.headers['Authorization']}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        leaving.sendall(head.encode() + body)
        worker = audits.worker()
        command = Path(f"/proc/{worker}/cmdline")
        until(lambda: b"worker_main" in command.read_bytes())  # it was forked a moment ago
        assert os.getpriority(os.PRIO_PROCESS, worker) == os.getpriority(os.PRIO_PROCESS, 0)
        os.kill(worker, signal.SIGSTOP)  # it would take for ever
    until(lambda: not audits.workers())
    until(lambda: set((state_dir / "datasets").iterdir()) == before)
    until(lambda: audits.http.post(DATASETS, content=b"", headers=ZIP).status_code == 422)


def test_an_upload_that_hangs_or_breaks_off_leaves_nothing(audits, state_dir):
    before = set((state_dir / "datasets").iterdir())
    address = urlsplit(str(audits.http.base_url))
    with socket.create_connection((address.hostname, address.port)) as hanging:
        head = (
            f"POST {DATASETS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/zip\r\n"
            f"Authorization: {audits.http.headers['Authorization']}\r\nContent-Length: 1000\r\n\r\n"
        )
        hanging.sendall(head.encode() + b"PK")
        until(lambda: set((state_dir / "datasets").iterdir()) != before)
        busy = audits.http.post(DATASETS, content=arrays(3), headers=ZIP)
        assert (busy.status_code, busy.json()["code"]) == (429, "upload_busy")
        assert audits.http.get("/readyz").status_code == 200
    until(lambda: set((state_dir / "datasets").iterdir()) == before)
    # Its folder is gone a moment before the next upload is taken.
    until(lambda: audits.http.post(DATASETS, content=arrays(3), headers=ZIP).status_code == 201)
