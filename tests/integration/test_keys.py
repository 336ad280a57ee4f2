"""Keys, from the outside: who gets in, who is told to wait, and what headers say."""

import os
import re
import subprocess
import sys
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from service.api.security import MAX_FAILURES
from service.app import create_app

PNG_TYPE = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def closed(app_settings, serve_app, tmp_path_factory) -> Any:
    """A service that answers only to those with the key `mine`."""
    changes = {"inference_key": SecretStr("mine"), "state_dir": tmp_path_factory.mktemp("closed")}
    with serve_app(create_app(app_settings.model_copy(update=changes))) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/v1/classify", "/v1/classify/batch", "/v1/denoise", "/v1/models", "/v1/models/mnist"]
)
def test_answers_need_the_key_where_there_is_one(closed, digit_pngs, path):
    data = digit_pngs[0][0]
    request: Any = {"method": "GET", "url": path}
    if "models" not in path:
        request = {"method": "POST", "url": path, "files": {"file": ("a", data, "image/png")}}
    assert closed.request(**request).json()["code"] == "unauthorized"
    for headers in ({"Authorization": "Bearer mine"}, {"X-API-Key": "mine"}):
        assert closed.request(**request, headers=headers).status_code == 200
    assert closed.get("/v1/admin/audits", headers={"X-API-Key": "mine"}).status_code == 401


def test_probes_and_metrics_need_none(closed):
    for path in ("/livez", "/readyz", "/metrics", "/", "/v2", "/v2/health/ready"):
        assert closed.get(path).status_code == 200


def test_the_open_inference_protocol_needs_the_key_too(closed):
    assert "key" in closed.get("/v2/models/mnist").json()["error"]
    assert closed.post("/v2/models/mnist/infer", json={}).status_code == 401
    assert closed.post("/v2/repository/index").status_code == 401
    assert closed.get("/v2/models/mnist", headers={"X-API-Key": "mine"}).status_code == 200


def test_an_audit_asks_the_closed_service_with_a_key_of_its_own(
    run_server, tiny_bundle_dir, tmp_path
):
    with run_server(
        tiny_bundle_dir, tmp_path, inference_key="mine", worker_priority="normal"
    ) as server:
        headers = {"Authorization": f"Bearer {server.token}"}
        spec = {"model": "mnist", "dataset": "rendered-digits", "samples": 4, "sanity_samples": 0,
                "knowledge": ["white_box"], "attacks": [{"name": "fgsm"}]}  # fmt: skip
        url = f"{server.base_url}/v1/admin/audits"
        audit = httpx.post(url, params={"wait": 60}, json=spec, headers=headers, timeout=70).json()
        assert audit["state"] == "succeeded"
        rows = httpx.get(f"{url}/{audit['id']}/samples", headers=headers).text
        assert '"kind":"served"' in rows
        assert '"served_answer":null' not in rows


def test_guessing_ends_in_429_and_the_right_key_still_opens(app_settings, serve_app, tmp_path):
    app = create_app(app_settings.model_copy(update={"state_dir": tmp_path}))
    with serve_app(app) as client:
        for number in range(MAX_FAILURES):
            guess = {"Authorization": f"Bearer guess{number}"}
            assert client.get("/v1/admin/audits", headers=guess).status_code == 401
        right = {"Authorization": f"Bearer {app_settings.admin_token.get_secret_value()}"}
        refused = client.get("/v1/admin/audits", headers={"X-API-Key": "one more"})
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_failures")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert client.get("/v1/admin/audits", headers=right).status_code == 200
        assert client.get("/v1/models").status_code == 200, "open routes stay open"
        assert f"fend_failed_logins_total {MAX_FAILURES}.0" in client.get("/metrics").text


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "no key came"),
        ({"X-API-Key": ""}, "no key came"),
        ({"Authorization": "Bearer"}, "has another form"),
        ({"Authorization": "Basic bWluZQ=="}, "has another form"),
        ({"Authorization": "mine"}, "has another form"),
        ({"Authorization": "Bearer mines"}, "the key that came is another"),
        ({"X-API-Key": "mines"}, "the key that came is another"),
    ],
)
def test_a_wrong_key_is_told_from_a_missing_one(closed, headers, said):
    answer = closed.get("/v1/models", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert said in answer.json()["detail"]
    assert "mine" not in answer.text


def test_requests_without_a_key_do_not_count_as_guesses(closed):
    for _ in range(MAX_FAILURES + 2):
        assert closed.get("/v1/models").status_code == 401


def test_headers_keep_pages_and_secrets_to_themselves(app_client):
    page = app_client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script>|src=.http|href=.http", page.text), "the policy would forbid it"
    assert app_client.get("/v1/admin/audits").headers["cache-control"] == "no-store"


def test_a_public_address_needs_a_choice(tiny_bundle_dir, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "service", "--host", "0.0.0.0", "--port", "0",
         "--models-dir", str(tiny_bundle_dir), "--state-dir", str(tmp_path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 4
    assert "no admin token is set" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_a_misspelt_key_opens_no_service_to_a_network(tmp_path, host):
    variables = {
        "FEND_ADMIN_TOKEN": "long-enough-to-be-safe", "FEND_OPEN_INFERENCE": "true",
        "FEND_INFERENCE_KEYS": "mine",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "service", "--host", host, "--port", "0",
         "--models-dir", str(tmp_path), "--state-dir", str(tmp_path)],
        capture_output=True, text=True, timeout=60, env=os.environ | variables,
    )  # fmt: skip
    assert "FEND_INFERENCE_KEYS is no setting (FEND_INFERENCE_KEY is)" in done.stderr
    assert "mine" not in done.stderr + done.stdout
    # Here there is a warning, and it goes on: to the models, of which there are none.
    assert done.returncode == (2 if host == "0.0.0.0" else 6)
