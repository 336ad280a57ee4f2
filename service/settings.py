"""Every setting of the service, read once from FEND_* variables and flags, frozen from then on.

The only place that reads the environment.
"""

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from fend.cli.folders import DATA_DIR, checked_data_dir, default_models_dir
from fend.errors import Invalid

Priority = Literal["low", "normal"]
LogFormat = Literal["auto", "console", "json"]
EngineChoice = Literal["auto", "openvino", "torch"]
Compare = Literal["always", "sampled", "never"]


ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://(\[[0-9a-fA-F:.]+\]|[^\s/?#@:\[\]*]+)(:\d+)?")
HOST = re.compile(r"\*|(\*\.)?[^\s/?#@:*\[\]]+|\[[0-9a-fA-F:.]+\]")

OTHER_VARIABLES = frozenset(
    {
        "FEND_API_KEY",  # fend classify
        "FEND_SURROGATES_DIR",
        "FEND_ADMIN_TOKEN_PATH", "FEND_CPU_LIMIT", "FEND_GRAFANA_PORT", "FEND_IMAGE",
        "FEND_MEMORY_LIMIT", "FEND_PROMETHEUS_PORT", "FEND_PUBLISH_PORT", "FEND_TORCH",
        "FEND_TORCH_INDEX", "FEND_TRAIN_USER",
    }
)  # fmt: skip
"""Variables that the service does not read: of the command line, and of docker compose."""

OF_KUBERNETES = re.compile(
    r"FEND_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
"""Variables that Kubernetes and old links of containers set for a service that is called fend."""


class ModelLimits(BaseModel):
    """Per-model values of the settings of the same names; None: as for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue_size: int | None = Field(default=None, ge=1)
    max_batch: int | None = Field(default=None, ge=1)
    request_timeout_s: float | None = Field(default=None, gt=0)


@dataclass(frozen=True)
class Limits:
    """Limits of one model."""

    queue_size: int
    """Images of the model that may be in flight."""
    max_batch: int
    """Images that go through the model at once."""
    request_timeout_s: float
    """Time for one answer."""


class Settings(BaseSettings):
    """Each field is the variable FEND_<NAME> and the flag --<name> of `fend serve`."""

    model_config = SettingsConfigDict(
        env_prefix="FEND_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 means every interface."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""

    admin_token: SecretStr | None = None
    """Token of the admin routes. Others can read flags: prefer the file or the variable."""

    admin_token_file: Path | None = None
    """File that holds the admin token, such as a mounted secret."""

    inference_key: SecretStr | None = None
    """Key that callers need for answers; several with spaces between. Without one all may ask."""

    inference_key_file: Path | None = None
    """File that holds the inference keys. Keys may be given as sha256:<digest>; see `fend key`."""

    open_inference: bool = False
    """Allow requests without a key on an address that other machines can reach."""

    root_path: str = Field(default="", pattern=r"^(/[A-Za-z0-9._~-]+)*/?$")
    """Prefix of paths under which a proxy shows the service, such as /fend; the proxy may take it
    off or leave it on."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may ask the service from a browser, with spaces between, such as
    https://app.example; * means all."""

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names that requests may have in Host, with spaces between, such as fend.example or
    *.example; those of this machine are always allowed. Not given: any."""

    models_dir: Path = Field(default_factory=default_models_dir)
    """Folder of bundles, one folder each. Not given: ./models, or else those that were installed
    with Fend."""

    default_model: str | None = None
    """The model that answers when a request names none. Not given: mnist, or else the only one."""

    data_dir: Path = DATA_DIR
    """Folder of data sets that audits may use; `fend data fetch` fills it."""

    state_dir: Path = Path(".fend/state")
    """Folder for what must outlive the process: audits and uploaded data sets."""

    database_url: SecretStr | None = None
    """Database for audits, active versions and the list of uploads, such as
    postgresql+psycopg://USER:PASSWORD@HOST/NAME. Not given: a SQLite file in state_dir."""

    device: str = "auto"
    """Device of the models: auto, cpu, cuda or cuda:N. auto takes a GPU where there is one."""

    engine: EngineChoice = "auto"
    """What computes answers on a CPU. auto: OpenVINO where it is installed and gives the model's
    own answers, else torch."""

    compare: Compare = "always"
    """Which answers are compared with that without the denoiser, which costs another pass of the
    classifier: always, sampled (one in twenty) or never. A caller may ask for the other with
    compare=true or compare=false."""

    max_body_bytes: int = Field(default=10 * 1024 * 1024, ge=1)
    """Largest request body."""

    max_pixels: int = Field(default=16_000_000, ge=1)
    """Largest image, as width times height, checked before it is decoded. A JPEG, which is decoded
    at a reduced scale, may have four times as many."""

    worker_priority: Priority = "low"
    """Priority of the processes that attack models, and of the thread that certifies answers. low:
    on a busy machine an audit gets half a core, a certificate a tenth; normal: they compete with
    serving as equals. Processor time that nothing else wants is theirs either way."""

    max_dataset_bytes: int = Field(default=256 * 1024 * 1024, ge=1)
    """Largest uploaded data set: of the file, of what it unpacks to, and of its pixels."""

    max_dataset_images: int = Field(default=60_000, ge=1, le=60_000)
    """Most images in an uploaded data set."""

    max_datasets_bytes: int = Field(default=2 * 1024 * 1024 * 1024, ge=0)
    """Disk space for all uploaded data sets together."""

    keep_audits: int = Field(default=1000, ge=1)
    """Ended audits that are kept; older ones are deleted, but never a model's last report."""

    keep_audits_days: float = Field(default=730.0, ge=0, le=36_500)
    """Days for which an ended audit is kept at most."""

    keep_audit_rows: int = Field(default=50, ge=0)
    """Ended audits whose raw rows are kept; older ones keep their report."""

    receive_timeout_s: float = Field(default=20.0, gt=0)
    """Time for the head of a request to arrive whole, and again for its body."""

    max_connections: int = Field(default=1000, ge=1)
    """Most open connections; the one that has sent nothing for longest makes room for a new one."""

    queue_size: int = Field(default=128, ge=1)
    """Images of a model that may be in flight at a time; more are refused with 429."""

    max_batch: int = Field(default=64, ge=1)
    """Most images that go through a model at once. How many do is measured for each model when it
    is loaded: as many as are no slower, each, than one alone."""

    model_limits: Annotated[dict[str, ModelLimits], NoDecode] = {}
    """JSON with other values of queue_size, max_batch and request_timeout_s for some models, such
    as {"mnist-paper": {"queue_size": 64}}."""

    max_request_images: int = Field(default=64, ge=1)
    """Most images in one request to /v1/classify/batch; never more than queue_size."""

    request_timeout_s: float = Field(default=10.0, gt=0)
    """Time for one answer, from the whole body on; later it is dropped and refused with 504. A
    caller may ask for less with the header X-Request-Timeout."""

    certify_samples: int = Field(default=1000, ge=100, le=1_000_000)
    """Noisy images that certify one answer. More make larger radii, and take as much longer."""

    certify_queue: int = Field(default=4, ge=1)
    """Certificates that may be in flight at a time; more are refused with 429."""

    decode_threads: int = Field(default=2, ge=1)
    """Threads that decode and encode images."""

    torch_threads: int | None = Field(default=None, ge=1)
    """Threads that one operation of a model is spread over. Not given: as many as are best,
    measured for each model when it is loaded."""

    drain_delay_s: float = Field(default=5.0, ge=0)
    """On SIGTERM: time of serving while not ready, so that a load balancer can notice."""

    shutdown_timeout_s: float = Field(default=30.0, gt=0)
    """On shutdown: time for requests in flight before they are cut off."""

    log_format: LogFormat = "auto"
    """Form of log lines: console (for people), json (for machines), or auto: console on a terminal,
    json elsewhere."""

    @field_validator("cors_origins", "allowed_hosts", mode="before")
    @classmethod
    def _from_words(cls, value: object) -> object:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin; write scheme, host and port alone, such as "
                    "https://app.example:8443"
                )
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not HOST.fullmatch(host):
                raise ValueError(
                    f"{host!r} is no name of a host; write it without scheme and port, such as "
                    "fend.example or *.example"
                )
        return value

    @field_validator("root_path")
    @classmethod
    def _is_not_ours(cls, value: str) -> str:
        if value.split("/")[1:2] in (["v1"], ["v2"], ["docs"]):
            raise ValueError("begins as a path of the service itself; take another prefix")
        return value.rstrip("/")

    @field_validator("model_limits", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"is no JSON: {error}") from error

    @field_validator("data_dir")
    @classmethod
    def _there(cls, value: Path) -> Path:
        return checked_data_dir(value)

    def limits_of(self, model: str) -> Limits:
        """Limits of this model."""
        own = self.model_limits.get(model, ModelLimits()).model_dump(exclude_none=True)
        return Limits(
            **{"queue_size": self.queue_size, "max_batch": self.max_batch,
               "request_timeout_s": self.request_timeout_s} | own
        )  # fmt: skip


def read_settings(flags: Mapping[str, Any]) -> Settings:
    """The settings from `flags`, where not None, over the environment, over the defaults.

    Raises:
        Invalid: naming each bad setting, never its value where that is secret.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_input=False)
        )
        raise Invalid(f"bad setting: {problems}", code="settings_invalid") from error


def unknown_variables() -> list[str]:
    """A warning for each unknown variable FEND_...: its name, and the nearest known one."""
    settings = {f"FEND_{name.upper()}" for name in Settings.model_fields}
    told = []
    for name, value in os.environ.items():
        known = name.upper() in settings | OTHER_VARIABLES or OF_KUBERNETES.fullmatch(name)
        if known or not name.upper().startswith("FEND_") or value.startswith(("tcp://", "udp://")):
            continue
        nearest = difflib.get_close_matches(name.upper(), sorted(settings), 1)
        told.append(f"{name} is no setting" + "".join(f" ({other} is)" for other in nearest))
    return sorted(told)


def traces_wanted() -> bool:
    """Whether the standard OpenTelemetry variables name a collector to send traces to."""
    places = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return (
        any(os.environ.get(name) for name in places)
        and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"
        and os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() != "none"
    )
