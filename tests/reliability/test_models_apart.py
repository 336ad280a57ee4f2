"""Several models in one service: what happens to one costs the others nothing they would notice."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from small_bundles import save_like

from fend.bundles import read_manifest
from fend.models.architectures.lenet import PaperLeNet

Serve = Callable[..., AbstractContextManager[Any]]
Digits = list[tuple[bytes, str]]
ADMIN = "/v1/admin/models"
FLOOD = 150
"""Callers at a time: more than any queue is long."""


def save_as(model: Path, folder: Path, classifier: torch.nn.Module | None = None) -> str:
    """The bundle in `model` once more, as the model and at the place that `folder` names."""
    name = folder.parent.parent.name if folder.parent.name == "versions" else folder.name
    other = {} if classifier is None else {"classifier": ("paper-lenet", {}, classifier)}
    return save_like(model, folder, name=name, **other).version


@dataclass
class Caller:
    """Asks one model again and again; what it got, by status."""

    client: httpx.AsyncClient
    model: str
    digits: Digits
    alone: list[dict[str, Any]] = field(default_factory=list)
    """The answers while nobody else asked, by image."""
    statuses: dict[int, int] = field(default_factory=dict)
    wrong: int = 0
    """Answers that are others than while nobody else asked."""

    async def ask_alone(self) -> None:
        for data, _ in self.digits:
            response = await self._send(data)
            assert response.status_code == 200, response.text
            self.alone.append(response.json())

    def answered(self) -> int:
        return self.statuses.get(200, 0)

    async def ask(self, number: int) -> None:
        place = number % len(self.digits)
        response = await self._send(self.digits[place][0])
        status = response.status_code
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 200 and self.alone:
            answer, expected = response.json(), self.alone[place]
            near = pytest.approx(expected["confidence"], abs=1e-4)
            self.wrong += answer["model"] != expected["model"] or answer["confidence"] != near

    async def until(self, done: asyncio.Event, start: int) -> None:
        number = start
        while not done.is_set():
            await self.ask(number)
            number += 1

    async def _send(self, png: bytes) -> httpx.Response:
        return await self.client.post(
            f"/v1/classify?model={self.model}", content=png, headers={"Content-Type": "image/png"}
        )


@contextmanager
def two_models(run_server: Serve, folder: Path, tiny: Path, **settings: Any) -> Iterator[Any]:
    """`mnist` and `other`, which answers alike; the server and an admin's client."""
    shutil.copytree(tiny / "mnist", folder / "models" / "mnist")
    save_as(tiny / "mnist", folder / "models" / "other")
    with run_server(folder / "models", folder / "state", **settings) as server:
        yield server


def client_of(server: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=server.base_url,
        headers={"Authorization": f"Bearer {server.token}"},
        limits=httpx.Limits(max_connections=FLOOD + 8),
        timeout=120,
    )


def test_a_flood_of_one_model_refuses_nobody_of_another(
    run_server, tiny_bundle_dir, tmp_path, digit_pngs
):
    async def scenario(server: Any) -> tuple[Caller, Caller]:
        async with client_of(server) as client:
            flooded, calm = (Caller(client, name, digit_pngs) for name in ("mnist", "other"))
            await calm.ask_alone()
            over = asyncio.Event()
            floods = [asyncio.create_task(flooded.until(over, n)) for n in range(FLOOD)]
            while flooded.statuses.get(429, 0) < FLOOD:
                await asyncio.sleep(0.01)
            refused_before = flooded.statuses[429]
            for number in range(20):
                await calm.ask(number)
            assert flooded.statuses[429] > refused_before, "the flood had ended"
            over.set()
            await asyncio.gather(*floods)
            return flooded, calm

    limits = {"mnist": {"queue_size": 4, "max_batch": 2}}
    with two_models(
        run_server, tmp_path, tiny_bundle_dir, model_limits=json.dumps(limits)
    ) as server:
        flooded, calm = asyncio.run(scenario(server))
    assert set(flooded.statuses) == {200, 429}
    assert set(calm.statuses) == {200}
    assert calm.wrong == 0


def test_bundles_that_fail_their_checks_change_nothing_under_load(
    run_server, tiny_bundle_dir, tmp_path, digit_pngs
):
    """A digest that does not match, weights that give NaN, and a file that is gone: over and over
    while both models are asked."""

    async def scenario(server: Any, broken: list[str]) -> list[Caller]:
        async with client_of(server) as client:
            callers = [Caller(client, name, digit_pngs) for name in ("mnist", "other")]
            for caller in callers:
                await caller.ask_alone()
            over = asyncio.Event()
            tasks = [
                asyncio.create_task(caller.until(over, n)) for caller in callers for n in range(8)
            ]
            for version in 3 * broken:
                before = [caller.answered() for caller in callers]
                response = await client.post(f"{ADMIN}/mnist/activate", json={"version": version})
                assert (response.status_code, response.json()["code"]) == (409, "version_refused")
                while any(
                    c.statuses.get(200, 0) == b for c, b in zip(callers, before, strict=True)
                ):
                    await asyncio.sleep(0.01)
            over.set()
            await asyncio.gather(*tasks)
            [mnist, _] = (await client.get(ADMIN)).json()
            assert mnist["active"] == read_manifest(tiny_bundle_dir / "mnist").version
            assert (await client.get("/readyz")).status_code == 200
            assert 'outcome="refused"} 9.0' in (await client.get("/metrics")).text.replace(
                'model="mnist",', ""
            )
            return callers

    with two_models(run_server, tmp_path, tiny_bundle_dir) as server:
        versions = tmp_path / "models" / "mnist" / "versions"
        torch.manual_seed(1)
        corrupt = save_as(tiny_bundle_dir / "mnist", versions / "corrupt", PaperLeNet())
        gone = save_as(tiny_bundle_dir / "mnist", versions / "gone", PaperLeNet())
        huge = PaperLeNet()
        with torch.no_grad():
            for weights in huge.parameters():
                weights.fill_(1e30)
        not_finite = save_as(tiny_bundle_dir / "mnist", versions / "huge", huge)
        weights_file = versions / "corrupt" / "classifier.safetensors"
        weights_file.write_bytes(weights_file.read_bytes()[:-1] + b"\xff")
        (versions / "gone" / "denoiser.safetensors").unlink()
        callers = asyncio.run(scenario(server, [corrupt, gone, not_finite]))
    for caller in callers:
        assert set(caller.statuses) == {200}
        assert caller.wrong == 0
