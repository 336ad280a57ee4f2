"""Every Prometheus metric of the service, in one place."""

from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

TIME_BUCKETS_S = tuple(0.0005 * 2**power for power in range(15))
"""Upper bounds from 0.5 ms to 8.2 s, doubling."""

AUDIT_BUCKETS_S = tuple(float(4**power) for power in range(10))
"""Upper bounds from 1 s to 3 days, each four times the one before."""

BATCH_BUCKETS = tuple(2**power for power in range(10))
SHARE_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """The metrics of one app, in a registry of its own, so that two apps can share a process."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)

        self.http_request_duration = histogram(
            "fend_http_request_duration_seconds",
            "Time from the first byte of a request to the last of its response.",
            ["method", "route", "status"],
            buckets=TIME_BUCKETS_S,
        )
        self.inference_queue = histogram(
            "fend_inference_queue_seconds",
            "Time that an image waited for the model to be free.",
            buckets=TIME_BUCKETS_S,
        )
        self.inference_compute = histogram(
            "fend_inference_compute_seconds",
            "Time of one step: decode, encode, certify (an image) or infer (a batch).",
            ["stage"],
            buckets=TIME_BUCKETS_S,
        )
        self.batch_size = histogram(
            "fend_batch_size", "Images that went through a model together.", buckets=BATCH_BUCKETS
        )
        self.queue_depth = gauge("fend_queue_depth", "Images that wait for a model to be free.")
        self.dropped = counter(
            "fend_dropped_total",
            "Images dropped before the model saw them: client_gone or deadline_exceeded.",
            ["reason"],
        )
        self.requests_rejected = counter(
            "fend_requests_rejected_total",
            "Requests, or images of a batch, that were answered with a problem, by its code.",
            ["reason"],
        )
        self.failed_logins = counter("fend_failed_logins_total", "Requests with a wrong key.")
        self.predictions = counter(
            "fend_predictions_total", "Answers, by the label given.", ["model", "version", "label"]
        )
        self.certificates = counter(
            "fend_certificates_total",
            "Certificates that were computed, by outcome: certified or abstained.",
            ["model", "outcome"],
        )
        self.suspicion_score = histogram(
            "fend_suspicion_score",
            "How far the answers with and without the denoiser disagree, 0 to 1.",
            ["model", "flagged"],
            buckets=SHARE_BUCKETS,
        )
        self.model_info = gauge(
            "fend_model_info",
            "1 for each model that serves.",
            ["model", "version", "denoiser", "classifier", "engine"],
        )
        self.models_refused = counter(
            "fend_models_refused_total",
            "Bundles that were refused when they were loaded, by the code of the error.",
            ["model", "reason"],
        )
        self.model_swaps = counter(
            "fend_model_swaps_total",
            "Changes of what serves a model: activated, refused (nothing changed) or unloaded.",
            ["model", "outcome"],
        )
        self.audits = counter("fend_audits_total", "Audits that reached a state.", ["state"])
        self.audit_shards = counter("fend_audit_shards_total", "Audit shards that were finished.")
        self.audit_duration = histogram(
            "fend_audit_duration_seconds",
            "Time from the first start of an audit to its end, interruptions included.",
            ["state"],
            buckets=AUDIT_BUCKETS_S,
        )
        self.audit_worker_deaths = counter(
            "fend_audit_worker_deaths_total",
            "Audit processes that exited without reporting an error.",
        )
        self.state_failures = counter(
            "fend_state_failures_total",
            "Reads and writes of the audits' file that the disk refused.",
        )
        self.state_unreadable = counter(
            "fend_state_unreadable_total",
            "Rows of the state that cannot be read, by what they are of; they are skipped.",
            ["kind"],
        )
        self.robust_accuracy = gauge(
            "fend_robust_accuracy_ratio",
            "Worst-case accuracy under attack in the last audit of a model.",
            ["model", "dataset", "knowledge", "epsilon"],
        )
        self.robust_accuracy_bound = gauge(
            "fend_robust_accuracy_bound_ratio",
            "The 95 % interval of fend_robust_accuracy_ratio: its low and its high bound.",
            ["model", "dataset", "knowledge", "epsilon", "bound"],
        )

    def render(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)
