"""Traces of a real service process, as a collector gets them: off, on, and with the SDK missing."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider

from fend.client import Client

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"


@dataclass
class Collector:
    """Where OTLP over HTTP arrives."""

    url: str
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Receive(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                raise AssertionError("not asked for")
            found.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receive) as server:
        found = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def request_lines(output: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "request"]


def test_a_request_is_one_trace_with_its_steps(
    run_server, collector, tiny_bundle_dir, tmp_path, digit_pngs, monkeypatch
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    headers = {"Content-Type": "image/png", "traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
    with run_server(tiny_bundle_dir, tmp_path) as server:
        url = f"{server.base_url}/v1/classify"
        assert httpx.post(url, content=digit_pngs[0][0], headers=headers).status_code == 200
        tracer = TracerProvider().get_tracer("a caller")
        with tracer.start_as_current_span("call") as call, Client(server.base_url) as client:
            client.models()
    # The process has ended, so everything has been sent.
    spans = {span.name: span for span in collector.spans()}
    assert set(spans) == {"POST /v1/classify", "decode", "infer", "GET /v1/models"}
    request = spans["POST /v1/classify"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    for name in ("decode", "infer"):
        step = spans[name]
        assert (step.trace_id, step.parent_span_id) == (request.trace_id, request.span_id)
        assert request.start_time_unix_nano <= step.start_time_unix_nano
        assert step.end_time_unix_nano <= request.end_time_unix_nano
    called = call.get_span_context()
    assert spans["GET /v1/models"].trace_id.hex() == trace.format_trace_id(called.trace_id)
    attributes = {
        attribute.key: attribute.value.string_value
        for attribute in collector.requests[0].resource_spans[0].resource.attributes
    }
    assert attributes["service.name"] == "fend"
    assert attributes["deployment.environment"] == "test"
    logged = request_lines(server.output())
    assert [line["trace_id"] for line in logged if line["route"] == "/v1/classify"] == [TRACE_ID]


def test_without_a_collector_there_are_none(live_server, digit_pngs):
    headers = {"Content-Type": "image/png", "traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
    url = f"{live_server.base_url}/v1/classify"
    assert httpx.post(url, content=digit_pngs[0][0], headers=headers).status_code == 200
    live_server.process.terminate()
    live_server.process.wait(30)
    lines = request_lines(live_server.output())
    assert lines
    assert all("trace_id" not in line for line in lines)


def test_a_collector_that_is_gone_stops_nothing(
    run_server, tiny_bundle_dir, tmp_path, digit_pngs, monkeypatch
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_EXPORT_TIMEOUT", "1000")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with run_server(tiny_bundle_dir, tmp_path) as server, Client(server.base_url) as client:
        client.classify(digit_pngs[0][0])
        server.process.terminate()
        assert server.process.wait(60) == 0
