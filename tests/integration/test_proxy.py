"""Behind a proxy's prefix, under names of its own, and asked by pages of other origins."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fend.client import Client
from service.app import create_app

KEY = {"Authorization": "Bearer a-token-for-tests"}


@pytest.fixture(scope="module")
def http(app_settings, serve_app, tmp_path_factory) -> Iterator[httpx.Client]:
    changes = {
        "root_path": "/fend",
        "cors_origins": ("https://app.example",),
        "allowed_hosts": ("fend.example", "*.fend.example"),
        "state_dir": tmp_path_factory.mktemp("proxy"),
    }
    with serve_app(create_app(app_settings.model_copy(update=changes))) as client:
        yield client


@pytest.mark.parametrize("left", ["", "/fend", "/fend/fend"])
def test_a_prefix_may_be_left_on_or_taken_off(http, left, digit_pngs):
    png, label = digit_pngs[0]
    answer = http.post(f"{left}/v1/classify", content=png, headers={"Content-Type": "image/png"})
    assert answer.json()["label"] == label
    private = http.get(f"{left}/v1/admin/audits")
    assert (private.status_code, private.headers["cache-control"]) == (401, "no-store")
    assert private.json()["instance"] == "/fend/v1/admin/audits"
    long = http.post(f"{left}/v1/admin/audits", content=bytes(300_000), headers=KEY)
    assert long.json()["code"] == "body_too_large"
    assert list(http.get(f"{left}/v2/models/nobody").json()) == ["error"]
    moved = http.get(f"{left}/v1/models/?a=b", headers={"Host": "fend.example"})
    assert (moved.status_code, moved.headers["location"]) == (307, "/fend/v1/models?a=b")
    spec = {"model": "mnist", "dataset": "rendered-digits", "samples": 1, "sanity_samples": 0,
            "attacks": [{"name": "fgsm"}]}  # fmt: skip
    made = http.post(f"{left}/v1/admin/audits", json=spec, headers=KEY)
    assert made.headers["location"] == f"/fend/v1/admin/audits/{made.json()['id']}"
    assert http.get(made.headers["location"], headers=KEY).status_code == 200
    assert http.delete(made.headers["location"], headers=KEY).status_code in (200, 202, 204)


def test_documents_and_pages_lead_below_the_prefix(http: httpx.Client) -> None:
    assert http.get("/fend/openapi.json").json()["servers"] == [{"url": "/fend"}]
    page = http.get("/fend/").text
    assert 'href="docs"' in page
    for path in re.findall(r'(?:src|href)="(page/[^"]+)"', page):
        assert http.get(f"/fend/{path}").status_code == 200
    with Client(str(http.base_url.join("/fend"))) as client:
        assert [model.name for model in client.models()] == ["mnist"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("fend.example", 200), ("FEND.example:8443", 200), ("a.fend.example", 200),
        ("127.0.0.1:1", 200), ("localhost", 200), ("[::1]:8000", 200),
        ("evil.example", 400), ("fend.example.evil", 400), ("xfend.example", 400), ("", 400),
    ],
)  # fmt: skip
def test_only_these_names_are_served(http: httpx.Client, host: str, status: int) -> None:
    answer = http.get("/livez", headers={"Host": host})
    assert (answer.status_code, "x-request-id" in answer.headers) == (status, True)


def asked_by(http: httpx.Client, origin: str, **more: str) -> Any:
    """A browser's question before a request that carries a key and an image."""
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"} | more
    headers["Access-Control-Request-Headers"] = "authorization,content-type,x-request-timeout"
    return http.options("/v1/classify", headers=headers)


def test_pages_of_the_named_origins_may_ask_and_no_others(http, app_client):
    good, other = "https://app.example", "https://evil.example"
    allowed = asked_by(http, good)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == good
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    refused = http.post("/v1/classify", headers={"Origin": good})  # also what goes wrong is read
    assert refused.status_code == 422
    assert refused.headers["access-control-allow-origin"] == good
    assert "X-Request-ID" in refused.headers["access-control-expose-headers"]
    for answer in (
        asked_by(http, other),
        http.get("/v1/models", headers={"Origin": other}),
        asked_by(app_client, good),
        app_client.get("/v1/models", headers={"Origin": good}),
    ):
        assert "access-control-allow-origin" not in answer.headers
    assert asked_by(app_client, good).headers["allow"] == "POST"
