"""OpenTelemetry traces, off unless the environment names a collector.

The SDK takes everything else from the standard OTEL_* variables itself: service name, sampler,
headers, batches. FastAPI makes the span of a request; `span` adds the steps inside.
"""

from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import structlog
from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from structlog.typing import EventDict, WrappedLogger

import fend

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_NO_SPAN = nullcontext()


class Traces:
    """The traces of one app; without a provider every method is nearly free."""

    def __init__(self, provider: "TracerProvider | None") -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("fend", fend.__version__)

    @property
    def wanted(self) -> bool:
        """Whether spans go anywhere."""
        return self._provider is not None

    def span(self, name: str) -> AbstractContextManager[object]:
        """A span of that name around the block, inside the request's."""
        return _NO_SPAN if self._tracer is None else self._tracer.start_as_current_span(name)

    def config(self, exclude: Callable[[MutableMapping[str, Any]], bool]) -> TelemetryConfig:
        """FastAPI's telemetry options: spans where there is a provider; metrics are our own."""
        return {
            "tracing": self._provider is not None,
            "tracer_provider": self._provider,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": exclude,
        }

    def close(self) -> None:
        """Flush pending spans; blocks until the collector has them, or for some seconds."""
        if self._provider is not None:
            self._provider.shutdown()


def open_traces(wanted: bool) -> Traces:
    """Traces sent to the collector in OTEL_EXPORTER_OTLP_ENDPOINT, or none unless `wanted`."""
    if not wanted:
        return Traces(None)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        structlog.get_logger().warning(
            "no traces: the environment names a collector, but its exporter is not installed; "
            "pip install 'fend[otel]', or set OTEL_SDK_DISABLED=true"
        )
        return Traces(None)
    resource = Resource.create({"service.version": fend.__version__})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "fend"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)


def add_trace_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Log processor that adds `trace_id` to the lines of a traced request."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
    return event
