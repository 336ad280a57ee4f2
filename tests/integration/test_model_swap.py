"""Versions of a model are swapped while the service answers: nothing is lost, nothing mixed."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from fend.bundles import read_manifest

REQUESTS = 1000
CONNECTIONS = 64
ADMIN = "/v1/admin/models"


def versions(models_dir: Path) -> tuple[str, str]:
    """The digests of the version in the folder itself and of the further one."""
    model = models_dir / "mnist"
    return read_manifest(model).version, read_manifest(model / "versions" / "new").version


def admin(server: Any) -> httpx.Client:
    return httpx.Client(
        base_url=server.base_url, headers={"Authorization": f"Bearer {server.token}"}, timeout=60
    )


def classify(client: httpx.Client, png: bytes, model: str = "mnist") -> httpx.Response:
    headers = {"Content-Type": "image/png"}
    return client.post(f"/v1/classify?model={model}", content=png, headers=headers)


def activate(client: httpx.Client, version: str) -> httpx.Response:
    return client.post(f"{ADMIN}/mnist/activate", json={"version": version})


def test_swaps_under_load_lose_and_mix_nothing(run_server, models_dir, tmp_path, digit_pngs):
    old, new = versions(models_dir)
    pngs = [png for png, _ in digit_pngs]
    with run_server(models_dir, tmp_path / "state") as server, admin(server) as client:
        alone: dict[str, list[float]] = {}
        for version in (new, old):
            assert activate(client, version).status_code == 200
            answers = [classify(client, png).json() for png in pngs]
            assert {answer["model"]["version"] for answer in answers} == {version}
            alone[version] = [answer["confidence"] for answer in answers]
        assert max(abs(a - b) for a, b in zip(alone[old], alone[new], strict=True)) > 0.01
        seen = asyncio.run(_load(server, pngs, alone, [new, old, new, old]))
        assert seen == {old, new}


async def _load(
    server: Any, pngs: list[bytes], alone: dict[str, list[float]], swaps: list[str]
) -> set[str]:
    numbers = iter(range(REQUESTS))
    seen: set[str] = set()
    done = 0
    headers = {"Authorization": f"Bearer {server.token}"}
    limits = httpx.Limits(max_connections=CONNECTIONS + 1)
    async with httpx.AsyncClient(
        base_url=server.base_url, headers=headers, limits=limits, timeout=60
    ) as client:

        async def caller() -> None:
            nonlocal done
            for number in numbers:
                place = number % len(pngs)
                response = await client.post(
                    "/v1/classify", content=pngs[place], headers={"Content-Type": "image/png"}
                )
                assert response.status_code == 200, response.text
                answer = response.json()
                version = answer["model"]["version"]
                assert answer["confidence"] == pytest.approx(alone[version][place], abs=1e-4)
                seen.add(version)
                done += 1

        async def swapper() -> None:
            for count, version in enumerate(swaps, start=1):
                while done < count * REQUESTS // (len(swaps) + 1):
                    await asyncio.sleep(0.005)
                response = await client.post(f"{ADMIN}/mnist/activate", json={"version": version})
                assert response.status_code == 200, response.text

        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(caller())
            group.create_task(swapper())
    assert done == REQUESTS
    return seen


def test_a_broken_version_changes_nothing(run_server, models_dir, tmp_path, digit_pngs):
    old, new = versions(models_dir)
    weights = models_dir / "mnist" / "versions" / "new" / "denoiser.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with run_server(models_dir, tmp_path / "state") as server, admin(server) as client:
        response = activate(client, new)
        assert (response.status_code, response.json()["code"]) == (409, "version_refused")
        assert "bundle_corrupt" in response.json()["detail"]
        assert activate(client, "sha256:" + "0" * 64).json()["code"] == "version_unknown"
        assert client.post(f"{ADMIN}/mnist/rollback").json()["code"] == "no_previous_version"
        assert classify(client, digit_pngs[0][0]).json()["model"]["version"] == old


def test_roll_back_unload_and_restart(run_server, models_dir, tmp_path, digit_pngs):
    old, new = versions(models_dir)
    png = digit_pngs[0][0]
    _copy_as(models_dir, "other")
    state = tmp_path / "state"
    with run_server(models_dir, state) as server, admin(server) as client:
        assert activate(client, new).json()["active"] == new
        metrics = client.get("/metrics").text
        info = [line for line in metrics.splitlines() if line.startswith("fend_model_info{")]
        mnist = [line for line in info if 'model="mnist"' in line]
        assert len(mnist) == 1
        assert new in mnist[0]
        assert client.post(f"{ADMIN}/mnist/rollback").json()["active"] == old
        assert client.post(f"{ADMIN}/mnist/rollback").json()["active"] == new
    with run_server(models_dir, state) as server, admin(server) as client:
        assert classify(client, png).json()["model"]["version"] == new
        assert client.post(f"{ADMIN}/mnist/unload").json()["reason"] == "model_unloaded"
        refused = classify(client, png)
        assert (refused.status_code, refused.json()["code"]) == (503, "model_unloaded")
        assert classify(client, png, "other").status_code == 200
    with run_server(models_dir, state) as server, admin(server) as client:
        assert classify(client, png).status_code == 503
        assert client.post(f"{ADMIN}/mnist/rollback").json()["active"] == new
    shutil.rmtree(models_dir / "mnist" / "versions")
    with run_server(models_dir, state) as server, admin(server) as client:
        listed = {model["name"]: model for model in client.get(ADMIN).json()}
        assert listed["mnist"]["active"] == old
        assert listed["mnist"]["missing"] == new
        assert httpx.get(f"{server.base_url}{ADMIN}").status_code == 401


def test_what_serves_comes_back_as_it_was(run_server, models_dir, tmp_path):
    old, new = versions(models_dir)
    with run_server(models_dir, tmp_path / "state") as server, admin(server) as client:
        assert activate(client, new).status_code == 200
        for _ in range(2):
            assert client.post(f"{ADMIN}/mnist/unload").status_code == 200
        assert client.post("/v2/repository/models/mnist/load").status_code == 200
        assert client.get("/v1/models/mnist").json()["version"] == new
        # Having been unloaded is no version to go back to.
        assert client.post(f"{ADMIN}/mnist/rollback").json()["active"] == old


def test_with_every_model_unloaded_it_is_not_ready(run_server, models_dir, tmp_path):
    old, _ = versions(models_dir)
    with run_server(models_dir, tmp_path / "state") as server, admin(server) as client:
        client.post(f"{ADMIN}/mnist/unload")
        for path in ("/readyz", "/healthz"):
            response = client.get(path)
            assert (response.status_code, response.json()["code"]) == (503, "not_ready")
            assert "mnist (model_unloaded)" in response.json()["detail"]
        response = client.get("/v2/health/ready")
        assert response.status_code == 503
        assert "mnist (model_unloaded)" in response.json()["error"]
        assert client.get("/livez").status_code == 200
        activate(client, old)
        assert client.get("/readyz").status_code == 200


def test_a_bundle_that_is_added_serves_at_once(run_server, models_dir, tmp_path, digit_pngs):
    """A further version and a new model, by the command, into a running service."""
    old, new = versions(models_dir)
    shutil.move(models_dir / "mnist" / "versions" / "new", tmp_path / "new")
    _copy_as(models_dir, "other")
    shutil.move(models_dir / "other", tmp_path / "other")
    png = digit_pngs[0][0]
    with run_server(models_dir, tmp_path / "state") as server, admin(server) as client:

        def add(source: Path, token: str = server.token) -> subprocess.CompletedProcess[str]:
            command = [
                sys.executable, "-c", "from fend.cli.main import main; main()", "bundle", "add",
                source, "--models-dir", models_dir, "--activate", "--url", server.base_url,
            ]  # fmt: skip
            environment = os.environ | {"FEND_ADMIN_TOKEN": token}
            return subprocess.run(command, env=environment, capture_output=True, text=True)

        done = add(tmp_path / "new")
        assert done.returncode == 0, done.stderr
        assert classify(client, png).json()["model"]["version"] == new
        assert classify(client, png, "other").status_code == 404
        again = add(tmp_path / "new")
        assert (again.returncode, again.stderr[:21]) == (2, "error [bundle_exists]")
        denied = add(tmp_path / "other", "wrong")
        assert "error [unauthorized]" in denied.stderr
        assert "added: " in denied.stdout  # it is there, and does not serve
        listed = {model["name"]: model for model in client.get(ADMIN).json()}
        assert (listed["other"]["active"], listed["other"]["reason"]) == (None, "model_unloaded")
        assert classify(client, png, "other").json()["code"] == "model_unloaded"
        assert activate(client, new).status_code == 200
        assert client.post("/v2/repository/models/other/load").status_code == 200
        assert classify(client, png, "other").json()["model"]["version"] == old
    (models_dir / "other" / "active").touch()  # whatever else lies there
    with run_server(models_dir, tmp_path / "other_state") as server, admin(server) as client:
        assert classify(client, png, "other").json()["model"]["version"] == old


def test_a_repaired_bundle_is_loaded_without_a_restart(
    run_server, models_dir, tmp_path, digit_pngs
):
    _copy_as(models_dir, "other")
    weights = models_dir / "other" / "denoiser.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    png = digit_pngs[0][0]
    with run_server(models_dir, tmp_path / "state") as server, admin(server) as client:
        assert classify(client, png, "other").json()["code"] == "bundle_corrupt"
        load = "/v2/repository/models/other/load"
        assert client.post(load).status_code == 409
        weights.write_bytes(whole)
        assert client.post(load).status_code == 200
        assert classify(client, png, "other").status_code == 200


def test_limits_of_one_model(run_server, models_dir, tmp_path, digit_pngs):
    _copy_as(models_dir, "other")
    limits = {"other": {"queue_size": 2, "max_batch": 1, "request_timeout_s": 5}}
    files = [("file", ("x.png", digit_pngs[0][0], "image/png"))] * 3
    with (
        run_server(models_dir, tmp_path, model_limits=json.dumps(limits)) as server,
        admin(server) as client,
    ):
        listed = {model["name"]: model["limits"] for model in client.get(ADMIN).json()}
        assert listed["other"] == limits["other"]
        assert listed["mnist"] == {"queue_size": 128, "max_batch": 64, "request_timeout_s": 10}
        refused = client.post("/v1/classify/batch?model=other", files=files)
        assert (refused.status_code, refused.json()["code"]) == (413, "too_many_images")
        assert client.post("/v1/classify/batch", files=files).status_code == 200


def test_limits_for_a_model_that_there_is_not_end_the_start(models_dir, tmp_path):
    environment = os.environ | {"FEND_MODEL_LIMITS": '{"nobody": {"queue_size": 2}}'}
    done = subprocess.run(
        [sys.executable, "-m", "service", "--models-dir", models_dir, "--state-dir", tmp_path,
         "--port", "0", "--device", "cpu"],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert "model_limits: there is no model 'nobody'" in done.stderr
    assert "which has mnist" in done.stderr


def _copy_as(models_dir: Path, name: str) -> None:
    """Another model that answers as `mnist` does."""
    shutil.copytree(
        models_dir / "mnist", models_dir / name, ignore=shutil.ignore_patterns("versions")
    )
    path = models_dir / name / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": name}))
