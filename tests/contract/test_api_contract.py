"""What clients may rely on: the documented shape, problems, ids, metrics, the admin gate."""

import re
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI

from service.api.middleware import RequestLimits
from service.api.problems import add_problem_handlers
from service.api.security import FailedLogins, read_access, require_admin
from service.observe.metrics import Metrics
from service.settings import Settings


@pytest.fixture(scope="module")
def openapi(app_client: httpx.Client) -> dict[str, Any]:
    return app_client.get("/openapi.json").json()


def test_every_reference_in_the_document_leads_somewhere(openapi: dict[str, Any]) -> None:
    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if "$ref" in node else []
            return own + [ref for value in node.values() for ref in references(value)]
        if isinstance(node, list):
            return [ref for value in node for ref in references(value)]
        return []

    found = references(openapi)
    assert "#/components/schemas/Problem" in found
    for reference in found:
        node: Any = openapi
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_every_documented_error_has_our_form(openapi: dict[str, Any]) -> None:
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    ours = "InferError" if path.startswith("/v2") else "Problem"
                    [form] = response["content"].values()
                    wanted = {"$ref": f"#/components/schemas/{ours}"}
                    assert form["schema"] == wanted, (method, path, status)


def test_classify_documents_its_bodies_and_its_problems(openapi: dict[str, Any]) -> None:
    operation = openapi["paths"]["/v1/classify"]["post"]
    assert set(operation["requestBody"]["content"]) == {
        "multipart/form-data",
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/bmp",
        "application/octet-stream",
        "application/json",
    }
    for status in ("404", "413", "415", "422", "429", "503", "504"):
        assert set(operation["responses"][status]["content"]) == {"application/problem+json"}
    assert openapi["components"]["schemas"]["Classification"]["examples"]
    assert openapi["components"]["schemas"]["Problem"]["examples"]


def test_audits_and_data_sets_document_their_forms(openapi: dict[str, Any]) -> None:
    paths = openapi["paths"]
    report = paths["/v1/admin/audits/{audit_id}/report"]["get"]["responses"]["200"]["content"]
    assert set(report) == {"application/json", "text/html", "text/markdown"}
    events = paths["/v1/admin/audits/{audit_id}/events"]["get"]["responses"]["200"]["content"]
    assert set(events) == {"text/event-stream"}
    upload = paths["/v1/admin/datasets"]["post"]
    assert {"multipart/form-data", "application/zip"} <= set(upload["requestBody"]["content"])
    assert {"413", "422", "507"} <= set(upload["responses"])
    for path, operations in paths.items():
        for operation in operations.values():
            if path.startswith("/v1/admin/"):
                assert {"401", "429"} <= set(operation["responses"]), path
                if "requestBody" in operation:
                    assert {"400", "408", "413", "422"} <= set(operation["responses"]), path
                assert operation["security"], path


def test_the_documented_tensor_example_is_accepted(app_client, openapi):
    body = openapi["paths"]["/v1/classify"]["post"]["requestBody"]["content"]["application/json"]
    assert app_client.post("/v1/classify", json=body["example"]).status_code == 200


def test_models_are_listed_and_shown(app_client: httpx.Client) -> None:
    [listed] = app_client.get("/v1/models").json()["models"]
    assert (listed["name"], listed["available"], listed["default"]) == ("mnist", True, True)
    assert set(listed["computing"]) == {"engine", "threads", "max_batch"}
    engine = listed["computing"]["engine"]
    assert f'engine="{engine}"' in app_client.get("/metrics").text
    shown = app_client.get("/v1/models/mnist").json()
    assert shown["version"].startswith("sha256:")
    assert shown["labels"] == list("0123456789")
    assert shown["input"]["height_px"] == 28
    assert shown["card"].startswith("# A tiny model")
    assert shown["about"] == {"trained_on": "rendered-digits:train"}
    assert shown["last_audit"] is None


def test_health_metrics_docs_and_home(app_client: httpx.Client) -> None:
    assert app_client.get("/livez").json() == {"status": "alive"}
    assert app_client.get("/readyz").json() == {"status": "ready"}
    assert app_client.get("/healthz").json() == {"status": "ready"}
    assert 'href="docs"' in app_client.get("/").text


def test_docs_load_nothing_from_elsewhere_and_run_no_script_of_the_page(app_client):
    page = app_client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; " in policy
    assert "//" not in page.text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == page.text.count("<script") + page.text.count("<link")
    for path in loaded:
        file = app_client.get(f"/{path}")
        assert file.status_code == 200
        assert file.headers["content-type"].split(";")[0] in ("text/javascript", "text/css")
    assert app_client.get("/docs/core.py").status_code == 404
    assert app_client.get("/redoc").status_code == 404


def test_metrics_have_the_promised_names_and_no_label_from_callers(app_client):
    app_client.get("/no/such/path-of-a-caller")
    app_client.post("/v1/classify", json={"pixels": [[0.0] * 28] * 28})
    text = app_client.get("/metrics").text
    for name in (
        "fend_http_request_duration_seconds_bucket",
        "fend_inference_queue_seconds_bucket",
        'fend_inference_compute_seconds_bucket{le="0.0005",stage="infer"}',
        'fend_inference_compute_seconds_bucket{le="0.0005",stage="decode"}',
        "fend_batch_size_bucket",
        "fend_queue_depth",
        "fend_requests_rejected_total",
        "fend_predictions_total{label=",
        "fend_suspicion_score_bucket",
        "fend_model_info{classifier=",
        "fend_audit_shards_total",
        "fend_audit_worker_deaths_total",
        "fend_state_failures_total",
        'fend_audits_total{state="failed"}',
        "process_resident_memory_bytes",
    ):
        assert name in text, name
    assert 'route="unmatched"' in text
    assert "path-of-a-caller" not in text


@pytest.mark.parametrize("given", ["abc-123", "two words", "x" * 200, 'a"b'])
def test_a_harmless_request_id_is_echoed_and_another_replaced(app_client, given):
    echoed = app_client.get("/livez", headers={"X-Request-ID": given}).headers["x-request-id"]
    if given == "abc-123":
        assert echoed == given
    else:
        assert echoed != given
        assert len(echoed) == 16


@pytest.fixture(scope="module")
def guarded_app() -> FastAPI:
    """Our handlers and middleware around an admin route and one that fails."""
    app = FastAPI()
    settings = Settings(admin_token="right")
    app.state.services = SimpleNamespace(
        settings=settings,
        metrics=Metrics(),
        access=read_access(settings),
        failed_logins=FailedLogins(),
    )
    router = APIRouter(dependencies=[Depends(require_admin)])

    @router.get("/admin")
    async def admin() -> str:
        return "welcome"

    @app.get("/fails")
    async def fails() -> str:
        raise RuntimeError("a secret of the inside")

    app.include_router(router)
    add_problem_handlers(app)
    app.add_middleware(
        RequestLimits, services=app.state.services, max_body_bytes={"/": 1000}, without_deadline=""
    )
    return app


@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", "Bearer", "Basic right", "right", "Bearer right2"]
)
def test_the_admin_gate_is_closed(guarded_app, serve_app, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    with serve_app(guarded_app) as client:
        response = client.get("/admin", headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["code"] == "unauthorized"
        assert client.get("/admin", headers={"Authorization": "Bearer right"}).json() == "welcome"


def test_an_unexpected_error_is_a_problem_that_does_not_leak(guarded_app, serve_app):
    with serve_app(guarded_app) as client:
        response = client.get("/fails")
        assert response.status_code == 500
        problem = response.json()
        assert problem["code"] == "internal_error"
        assert problem["request_id"] == response.headers["x-request-id"]
        assert "secret" not in response.text
        assert client.get("/fails").status_code == 500
