"""fend.client against real services: answers, problems, overload, a restart, audits."""

import asyncio
import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image as Pillow

from fend.client import AsyncClient, Classification, Client, RemoteError, ServiceUnreachable
from fend.client.local import LocalModel
from fend.errors import FendError
from service.app import create_app
from service.settings import Settings

AUDIT = {
    "model": "mnist", "dataset": "rendered-digits", "samples": 3, "sanity_samples": 2,
    "knowledge": ["white_box"], "attacks": [{"name": "fgsm"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def url(app_client: httpx.Client) -> str:
    return str(app_client.base_url)


def test_the_client_is_imported_without_torch_and_the_rest() -> None:
    program = "import sys, fend.client, fend.client.local; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = done.stdout.split()
    ours = {name for name in loaded if name.startswith("fend.") and "client" not in name}
    assert ours == {"fend.errors"}, done.stderr
    assert not {"torch", "numpy", "PIL", "fastapi", "service", "training"} & set(loaded)


def test_both_clients_give_what_the_service_and_the_bundle_say(
    url, app_client, tiny_bundle_dir, digit_pngs, tmp_path
):
    picture = digit_pngs[0][0]
    file = tmp_path / "digit.png"
    file.write_bytes(picture)

    async def ask() -> Any:
        async with AsyncClient(url) as client:
            return (
                await client.classify(file, top_k=10, denoised=True),
                await client.denoise(picture),
                await client.models(),
            )

    with Client(url) as client:
        answer = client.classify(picture, top_k=10, denoised=True)
        cleaned, models = client.denoise(file), client.models()
    assert asyncio.run(ask()) == (answer, cleaned, models)
    sent = app_client.post("/v1/classify", params={"top_k": 10, "include": "denoised"},
                           content=picture, headers={"Content-Type": "image/png"})  # fmt: skip
    assert answer == Classification.model_validate(sent.json())
    assert cleaned.startswith(b"\x89PNG")
    assert [(model.name, model.default, model.labels) for model in models] == [
        ("mnist", True, list("0123456789"))
    ]
    here = LocalModel(tiny_bundle_dir / "mnist").classify(picture, top_k=10)
    assert answer.model_dump(exclude={"denoised"}) == _about(here)


def _about(answer: Classification) -> object:
    """All of it but the picture, to five digits: the service may compute with another engine."""

    def about(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: about(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [about(inner) for inner in value]
        return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value

    return about(answer.model_dump(exclude={"denoised"}))


def test_an_image_is_whatever_holds_one(url, digit_pngs, tmp_path):
    png = digit_pngs[0][0]
    file = tmp_path / "digit.png"
    file.write_bytes(png)
    picture = Pillow.open(io.BytesIO(png))
    pixels = np.asarray(picture)
    assert pixels.dtype == np.uint8
    with Client(url) as client, file.open("rb") as opened:
        expected = client.classify(png)
        images: list[Any] = [file, str(file), opened, picture, pixels, pixels / np.float32(255),
                             io.BytesIO(png), bytearray(png), picture.convert("RGB"),
                             picture.convert("CMYK")]  # fmt: skip
        for image in images:
            assert client.classify(image) == expected, type(image)
        bad: Any
        for bad, says in [
            (pixels * 1.0, "0, 1"),
            (pixels[:, :, None, None], "shape"),
            (pixels.astype(np.int64), "int64"),
            (pixels[:0], "."),
            (pixels[:0] * np.float32(1), "0, 1"),
            (tmp_path, "directory"),
            ("no\0path", "null"),
        ]:
            with pytest.raises(FendError, match=says) as caught:
                client.classify(bad)
            assert caught.value.code == "image_unreadable"
        for bad, says in [
            ({"no": "image"}, "an image is bytes, a path, .* and no dict"),
            (7, "and no int"),
            (io.StringIO("text"), "binary mode"),
        ]:
            with pytest.raises(TypeError, match=says):
                client.classify(bad)
            [alone, answer] = client.classify_batch([bad, png])
            assert isinstance(alone, TypeError)
            assert answer == expected


def test_a_batch_gives_one_answer_or_error_an_image_in_order(url, digit_pngs, tmp_path):
    images: list[bytes | Path] = [picture for picture, _ in digit_pngs[:12]]
    images[3:3] = [b"no picture", tmp_path / "missing.png"]
    with Client(url) as client:
        answers = client.classify_batch(images)
        alone = [client.classify(picture).label for picture, _ in digit_pngs[:12]]

    async def ask() -> list[Any]:
        async with AsyncClient(url, concurrency=3) as client:
            return await client.classify_batch(images)

    for found in (answers, asyncio.run(ask())):
        bad, missing = found[3:5]
        assert isinstance(bad, RemoteError)
        assert (bad.code, bad.status) == ("unsupported_image_format", 415)
        assert isinstance(missing, FendError)
        assert missing.code == "image_unreadable"
        good = [answer for answer in found if isinstance(answer, Classification)]
        assert [answer.label for answer in good] == alone


def test_problems_are_typed_and_not_asked_again(url: str, digit_pngs: Any) -> None:
    picture = digit_pngs[0][0]
    with Client(url) as client:
        arguments: Any
        for arguments, code, status in [
            ({"model": "other"}, "model_unknown", 404),
            ({"top_k": 11}, "top_k_invalid", 422),
        ]:
            with pytest.raises(RemoteError) as caught:
                client.classify(picture, **arguments)
            assert (caught.value.code, caught.value.status) == (code, status)
        with pytest.raises(RemoteError) as caught:
            client.audits.start(AUDIT)
        assert caught.value.code == "unauthorized"
    with Client(f"{url}/elsewhere") as client, pytest.raises(ServiceUnreachable, match="404"):
        client.models()


def test_what_is_no_service_is_told() -> None:
    with pytest.raises(ServiceUnreachable, match="no URL of a service"):
        Client("localhost:8000")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"http://127.0.0.1:{silent.getsockname()[1]}"
        in_time = pytest.raises(ServiceUnreachable, match="did not answer in time")
        with Client(place, timeout_s=0.2) as client, in_time:
            client.models()
    running = pytest.raises(ServiceUnreachable, match="is the service running there")
    with Client(place, patience_s=0) as client, running:
        client.models()


@pytest.fixture
def crowded(app_settings, serve_app, tmp_path) -> Any:
    """A service that takes one picture at a time."""
    changes = {"queue_size": 1, "state_dir": tmp_path}
    return serve_app(create_app(app_settings.model_copy(update=changes)))


def test_an_overloaded_service_is_asked_again_after_its_retry_after(crowded, digit_pngs):
    pictures = [picture for picture, _ in digit_pngs[:16]]
    with crowded as http:
        url = str(http.base_url)
        with Client(url, patience_s=60, concurrency=16) as client:
            alone = [client.classify(picture).label for picture in pictures]
            for _ in range(50):
                answers = client.classify_batch(pictures)
                assert [getattr(answer, "label", answer) for answer in answers] == alone
                if 'reason="overloaded"' in http.get("/metrics").text:
                    break
            else:
                raise AssertionError("the queue never filled")
        with Client(url, patience_s=0, concurrency=16) as client:
            hasty = [answer for _ in range(20) for answer in client.classify_batch(pictures)]
    errors = [answer for answer in hasty if not isinstance(answer, Classification)]
    assert {error.code for error in errors} == {"overloaded"}


def test_a_restart_goes_unnoticed(run_server, tiny_bundle_dir, tmp_path, digit_pngs):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    picture = digit_pngs[0][0]
    with Client(f"http://127.0.0.1:{port}", patience_s=120) as client:
        with run_server(tiny_bundle_dir, tmp_path, port=port):
            before = client.classify(picture)
        answers: list[Classification] = []
        asking = threading.Thread(target=lambda: answers.append(client.classify(picture)))
        asking.start()
        with run_server(tiny_bundle_dir, tmp_path, port=port):
            asking.join(120)
            assert answers == [before]


@pytest.fixture(scope="module")
def auditing(app_settings, serve_app, tmp_path_factory) -> Iterator[httpx.Client]:
    """A service whose audits are nobody else's."""
    changes = {"state_dir": tmp_path_factory.mktemp("state"), "worker_priority": "normal"}
    with serve_app(create_app(app_settings.model_copy(update=changes))) as http:
        yield http


@pytest.fixture
def key(app_settings: Settings) -> str:
    return app_settings.admin_token.get_secret_value()


def test_audits_are_started_followed_and_read(auditing: httpx.Client, key: str) -> None:
    url = str(auditing.base_url)
    seen: list[tuple[int, int]] = []

    async def audit() -> Any:
        async with AsyncClient(url, key=key) as client:
            audit_id = (await client.audits.start(AUDIT)).id
            await client.audits.follow(audit_id, lambda *progress: seen.append(progress))
            audits = client.audits
            return audit_id, await audits.report(audit_id), await audits.rows(audit_id)

    audit_id, report, rows = asyncio.run(audit())
    assert seen[-1][0] == seen[-1][1] > 0
    with Client(url, key=key) as client:
        again: list[tuple[int, int]] = []
        client.audits.follow(audit_id, lambda *progress: again.append(progress))
        assert again == seen
        assert client.audits.get(audit_id).state == "succeeded"
        assert client.audits.report(audit_id) == report
        assert json.loads(report)["result"]["spec"]["samples"] == 3
        assert b"<html" in client.audits.report(audit_id, "html")
        assert client.audits.rows(audit_id) == rows
        with pytest.raises(RemoteError) as caught:
            client.audits.follow("other")
        assert caught.value.code == "audit_unknown"


def test_a_cancelled_audit_is_told(auditing: httpx.Client, key: str) -> None:
    url = str(auditing.base_url)
    long = {**AUDIT, "samples": 100, "attacks": [{"name": "pgd", "steps": 400}]}

    async def audit() -> str:
        async with AsyncClient(url, key=key) as client:
            audit_id = (await client.audits.start(long)).id
            await client.audits.cancel(audit_id)
            with pytest.raises(RemoteError, match="cancelled") as caught:
                await client.audits.follow(audit_id)
            assert (caught.value.code, caught.value.status) == ("audit_cancelled", 409)
            return audit_id

    audit_id = asyncio.run(audit())
    with Client(url, key=key) as client:
        with pytest.raises(RemoteError, match="cancelled"):
            client.audits.follow(audit_id)
        with pytest.raises(RemoteError) as caught:
            client.audits.report(audit_id)
        assert caught.value.code == "audit_not_finished"


def test_data_sets_are_sent_listed_and_deleted(auditing: httpx.Client, key: str) -> None:
    url, file = str(auditing.base_url), io.BytesIO()
    np.savez(file, images=np.zeros((4, 28, 28), np.uint8), labels=np.array([0, 1, 1, 2]))

    async def upload() -> Any:
        async with AsyncClient(url, key=key) as client:
            return await client.datasets.upload(file), await client.datasets.list()

    sent, listed = asyncio.run(upload())
    assert (sent.images, listed) == (4, [sent])
    with Client(url, key=key) as client:
        assert client.datasets.upload(file) == sent
        assert client.datasets.list() == [sent]
        client.datasets.delete(sent.id)
        assert client.datasets.list() == []
