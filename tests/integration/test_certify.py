"""`certify=true`: certificates from a service, clients and the command line, and their price."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from small_bundles import save_like
from waiting import until

from fend.bundles import Smoothing, load_bundle, read_manifest
from fend.client import AsyncClient, Client, RemoteError
from fend.guarantees.smoothing import certify
from fend.images import decode
from service.app import create_app

SIGMA = 0.1
ENDLESS = 1_000_000
"""Samples: more than there is time for."""


@pytest.fixture(scope="module")
def models_dir(tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mnist`, which has a sigma, and `plain`, which has none."""
    folder = tmp_path_factory.mktemp("certifying")
    for name, smoothing in (("mnist", Smoothing(sigma=SIGMA)), ("plain", None)):
        manifest = save_like(tiny_bundle_dir / "mnist", folder / name, smoothing=smoothing)
    assert manifest.version == read_manifest(tiny_bundle_dir / "mnist").version
    return folder


@pytest.fixture(scope="module")
def serve(
    models_dir, app_settings, serve_app, tmp_path_factory
) -> Callable[..., AbstractContextManager[httpx.Client]]:
    def start(**changes: object) -> AbstractContextManager[httpx.Client]:
        places = {"models_dir": models_dir, "state_dir": tmp_path_factory.mktemp("state")}
        # Other work on the machine must not keep these tests waiting.
        changes = {"worker_priority": "normal", **places, **changes}
        return serve_app(create_app(app_settings.model_copy(update=changes)))

    return start


@pytest.fixture(scope="module")
def client(serve: Callable[..., AbstractContextManager[httpx.Client]]) -> Iterator[httpx.Client]:
    with serve(certify_samples=400) as client:
        yield client


def ask(client: httpx.Client, picture: bytes, **params: object) -> httpx.Response:
    headers = {"Content-Type": "image/png"}
    return client.post("/v1/classify", params=params, content=picture, headers=headers)


def test_the_certificate_is_what_its_seed_says(client, models_dir, digit_pngs):
    bundle = load_bundle(models_dir / "mnist")
    seeds, right = set(), 0
    for picture, label in digit_pngs[:6]:
        answer = ask(client, picture, certify="true").json()
        certified = answer["certified"]
        pixels = decode(picture, bundle.manifest.content.input).pixels
        [same] = certify(
            bundle.defence, pixels.unsqueeze(0), [certified["seed"]], sigma=SIGMA, samples=400
        )
        assert certified.get("index") == same.index
        assert certified["radius_l2"] == same.radius
        assert (certified["sigma"], certified["samples"], certified["alpha"]) == (SIGMA, 400, 0.001)
        assert certified["abstained"] == ("label" not in certified)
        right += certified.get("label") == label and certified["radius_l2"] > 0
        seeds.add(certified["seed"])
        plain = ask(client, picture).json()
        assert "certified" not in plain
        assert {key: value for key, value in answer.items() if key != "certified"} == plain
    assert right >= 4
    assert len(seeds) == 6


def test_a_model_without_a_sigma_says_so(client, digit_pngs):
    picture = digit_pngs[0][0]
    refused = ask(client, picture, certify="true", model="plain")
    assert refused.status_code == 422
    assert refused.json()["code"] == "not_certifiable"
    assert ask(client, picture, model="plain").status_code == 200
    assert ask(client, b"no picture", certify="true").json()["code"] == "unsupported_image_format"
    models = {m["name"]: m["sigma"] for m in client.get("/v1/models").json()["models"]}
    assert models == {"mnist": SIGMA, "plain": None}
    metrics = client.get("/metrics").text
    assert 'fend_certificates_total{model="mnist",outcome="certified"}' in metrics


def test_what_would_take_too_long_is_given_up(serve, digit_pngs):
    with serve(certify_samples=ENDLESS, certify_queue=1) as client:
        for _ in range(2):  # the place is free again
            late = client.post(
                "/v1/classify",
                params={"certify": "true"},
                content=digit_pngs[0][0],
                headers={"Content-Type": "image/png", "X-Request-Timeout": "0.5"},
            )
            assert late.status_code == 504
            assert late.json()["code"] == "deadline_exceeded"


def test_a_full_house_refuses_certificates_and_answers_everything_else(serve, digit_pngs):
    picture = digit_pngs[0][0]
    with serve(certify_samples=ENDLESS, certify_queue=1, request_timeout_s=300.0) as client:
        leaving = threading.Event()
        certificate: Any = {
            "params": {"certify": "true"},
            "content": picture,
            "headers": {"Content-Type": "image/png"},
        }

        async def occupy() -> None:
            async with httpx.AsyncClient(base_url=client.base_url, timeout=300) as other:

                async def insist() -> None:
                    while (await other.post("/v1/classify", **certificate)).status_code == 429:
                        await asyncio.sleep(0.01)

                asked = asyncio.ensure_future(insist())
                while not leaving.is_set() and not asked.done():
                    await asyncio.sleep(0.01)
                assert not asked.done()
                asked.cancel()

        occupying = threading.Thread(target=asyncio.run, args=(occupy(),))
        occupying.start()

        def impatient() -> httpx.Response:
            headers = {**certificate["headers"], "X-Request-Timeout": "0.2"}
            return client.post("/v1/classify", **certificate | {"headers": headers})

        refused = until(lambda: (r := impatient()).status_code == 429 and r)
        assert refused.json()["code"] == "overloaded"
        assert int(refused.headers["Retry-After"]) >= 1
        for _ in range(5):
            assert ask(client, picture).status_code == 200
        leaving.set()
        occupying.join(60)
        # Who has left is not worked for, and has no place any more.
        until(lambda: impatient().status_code == 504)


def test_both_clients_and_the_command_line_ask_for_it(client, models_dir, digit_pngs, tmp_path):
    picture, url = digit_pngs[0][0], str(client.base_url)
    (tmp_path / "digit.png").write_bytes(picture)

    async def later() -> Any:
        async with AsyncClient(url) as waiting:
            return await waiting.classify(picture, certify=True)

    with Client(url) as at_once:
        answers = [at_once.classify(picture, certify=True), asyncio.run(later())]
        assert at_once.classify(picture).certified is None
        assert [model.sigma for model in at_once.models()] == [SIGMA, None]
        with pytest.raises(RemoteError) as refused:
            at_once.classify(picture, model="plain", certify=True)
        assert refused.value.code == "not_certifiable"
    labels = {answer.certified.label for answer in answers}

    def fend_classify(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", "from fend.cli.main import main; main()", "classify",
             "digit.png",
             "--certify", *arguments],
            cwd=tmp_path, env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    there = json.loads(fend_classify("--json", "--url", url))
    here = json.loads(fend_classify("--json", "--models-dir", str(models_dir)))
    assert {there["certified"].get("label"), here["certified"].get("label")} == labels
    assert "within L2" in fend_classify("--models-dir", str(models_dir))
