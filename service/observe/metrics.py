"""Every Prometheus metric of the service, in one place."""

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
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

        self.http_request_duration = Histogram(
            "fend_http_request_duration_seconds",
            "Time from the first byte of a request to the last of its response.",
            ["method", "route", "status"],
            buckets=TIME_BUCKETS_S,
            registry=self.registry,
        )
        self.inference_queue = Histogram(
            "fend_inference_queue_seconds",
            "Time that an image waited for the model to be free.",
            buckets=TIME_BUCKETS_S,
            registry=self.registry,
        )
        self.inference_compute = Histogram(
            "fend_inference_compute_seconds",
            "Time of one step: decode, encode, certify (an image) or infer (a batch).",
            ["stage"],
            buckets=TIME_BUCKETS_S,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "fend_batch_size",
            "Images that went through a model together.",
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "fend_queue_depth",
            "Images that wait for a model to be free.",
            registry=self.registry,
        )
        self.dropped = Counter(
            "fend_dropped_total",
            "Images dropped before the model saw them: client_gone or deadline_exceeded.",
            ["reason"],
            registry=self.registry,
        )
        self.requests_rejected = Counter(
            "fend_requests_rejected_total",
            "Requests, or images of a batch, that were answered with a problem, by its code.",
            ["reason"],
            registry=self.registry,
        )
        self.failed_logins = Counter(
            "fend_failed_logins_total",
            "Requests with a wrong key.",
            registry=self.registry,
        )
        self.predictions = Counter(
            "fend_predictions_total",
            "Answers, by the label given.",
            ["model", "version", "label"],
            registry=self.registry,
        )
        self.certificates = Counter(
            "fend_certificates_total",
            "Certificates that were computed, by outcome: certified or abstained.",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.suspicion_score = Histogram(
            "fend_suspicion_score",
            "How far the answers with and without the denoiser disagree, 0 to 1.",
            ["model", "flagged"],
            buckets=SHARE_BUCKETS,
            registry=self.registry,
        )
        self.model_info = Gauge(
            "fend_model_info",
            "1 for each model that serves.",
            ["model", "version", "denoiser", "classifier"],
            registry=self.registry,
        )
        self.models_refused = Counter(
            "fend_models_refused_total",
            "Bundles that were refused when they were loaded, by the code of the error.",
            ["model", "reason"],
            registry=self.registry,
        )
        self.model_swaps = Counter(
            "fend_model_swaps_total",
            "Changes of what serves a model: activated, refused (nothing changed) or unloaded.",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.audits = Counter(
            "fend_audits_total",
            "Audits that reached a state.",
            ["state"],
            registry=self.registry,
        )
        self.audit_shards = Counter(
            "fend_audit_shards_total",
            "Audit shards that were finished.",
            registry=self.registry,
        )
        self.audit_duration = Histogram(
            "fend_audit_duration_seconds",
            "Time from the first start of an audit to its end, interruptions included.",
            ["state"],
            buckets=AUDIT_BUCKETS_S,
            registry=self.registry,
        )
        self.audit_worker_deaths = Counter(
            "fend_audit_worker_deaths_total",
            "Audit processes that exited without reporting an error.",
            registry=self.registry,
        )
        self.state_failures = Counter(
            "fend_state_failures_total",
            "Reads and writes of the audits' file that the disk refused.",
            registry=self.registry,
        )
        self.state_unreadable = Counter(
            "fend_state_unreadable_total",
            "Rows of the state that cannot be read, by what they are of; they are skipped.",
            ["kind"],
            registry=self.registry,
        )
        self.robust_accuracy = Gauge(
            "fend_robust_accuracy_ratio",
            "Worst-case accuracy under attack in the last audit of a model.",
            ["model", "dataset", "knowledge", "epsilon"],
            registry=self.registry,
        )
        self.robust_accuracy_bound = Gauge(
            "fend_robust_accuracy_bound_ratio",
            "The 95 % interval of fend_robust_accuracy_ratio: its low and its high bound.",
            ["model", "dataset", "knowledge", "epsilon", "bound"],
            registry=self.registry,
        )

    def render(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)
