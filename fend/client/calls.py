"""Every call as data: what is sent, and how the answer is read. Both clients make their methods of
these functions; nothing here touches the network."""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Generic, Literal, TypeVar
from urllib.parse import quote

import httpx
from opentelemetry.propagate import inject
from pydantic import BaseModel, ConfigDict, TypeAdapter

from fend.client.answers import Classification
from fend.client.image import Image, image_bytes
from fend.client.retry import Failure, failure_of, unexpected

T = TypeVar("T")

AUDITS, DATASETS = "/v1/admin/audits", "/v1/admin/datasets"


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True)


class Model(_Schema):
    """A model of the service. All but the first three are None where it was refused."""

    name: str
    available: bool
    default: bool
    version: str | None = None
    labels: list[str] | None = None
    input: dict[str, Any] | None = None
    denoiser: str | None = None
    classifier: str | None = None
    sigma: float | None = None
    """Standard deviation of the noise that answers can be certified with; None: with none."""
    refused: str | None = None


class Audit(_Schema):
    """An audit at this moment; `state` is queued, running, succeeded, failed or cancelled."""

    id: str
    state: str
    progress: dict[str, float | None]
    """`done` and `total` in images; `eta_s`, seconds left, once they are known."""
    error: dict[str, str] | None
    """`code` and `message` of an audit that failed."""
    waiting_for: str | None = None
    reason: str | None = None
    """Why nothing moves, or little, in a word and in a sentence."""


class Dataset(_Schema):
    """An uploaded data set; an audit names it by `dataset`."""

    id: str
    dataset: str
    images: int
    images_by_label: dict[str, int]


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request that may be sent again, and how the body of its answer is read."""

    method: str
    path: str
    read: Callable[[bytes], T]
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    file: bytes | BinaryIO | None = None
    """Sent as the part `file` of a form."""
    body: Mapping[str, Any] | None = None
    """Sent as JSON."""

    def request(self) -> dict[str, Any]:
        """The arguments for httpx."""
        headers = dict(self.headers)
        inject(headers)  # traceparent, where the caller traces
        sent: dict[str, Any] = {
            "method": self.method, "url": self.path, "params": self.params, "headers": headers
        }  # fmt: skip
        if self.file is not None:
            sent["files"] = {"file": ("file", self.file, "application/octet-stream")}
        if self.body is not None:
            sent["json"] = self.body
        return sent

    def outcome(self, response: httpx.Response) -> T | Failure:
        """What was asked for, or why there is none."""
        if not response.is_success:
            return failure_of(response)
        try:
            return self.read(response.content)
        except (ValueError, KeyError):
            return unexpected(response.url)


def classify(
    image: Image,
    *,
    model: str | None = None,
    top_k: int | None = None,
    denoised: bool = False,
    certify: bool = False,
    compare: bool | None = None,
) -> Call[Classification]:
    """The answer to one image; with `denoised`, also the cleaned image as a data URL; with
    `certify`, also up to which L2 distance the answer provably holds; `compare` False leaves out
    `undefended` and `suspicion`, which cost a pass of the classifier."""
    params = _given(
        model=model,
        top_k=top_k,
        include="denoised" if denoised else None,
        certify="true" if certify else None,
        compare=None if compare is None else str(compare).lower(),
    )
    read = Classification.model_validate_json
    return Call("POST", "/v1/classify", read, params, file=image_bytes(image))


def denoise(image: Image, *, model: str | None = None) -> Call[bytes]:
    """The cleaned image, a PNG in the size that the model takes."""
    return Call("POST", "/v1/denoise", bytes, _given(model=model), file=image_bytes(image))


def models() -> Call[list[Model]]:
    """Every model, serving or refused."""
    listed = TypeAdapter(dict[str, list[Model]])
    return Call("GET", "/v1/models", lambda body: listed.validate_json(body)["models"])


def activate(model: str, version: str) -> Call[None]:
    """Let the service serve this version of a model; `key` must be the admin token."""
    path = f"/v1/admin/models/{quote(model, safe='')}/activate"
    return Call("POST", path, _nothing, body={"version": version})


def start_audit(spec: Mapping[str, Any]) -> Call[Audit]:
    """Ask for an audit, as the fields of a request."""
    once = {"Idempotency-Key": uuid.uuid4().hex}  # however often it is sent
    return Call("POST", AUDITS, Audit.model_validate_json, headers=once, body=spec)


def audit(audit_id: str) -> Call[Audit]:
    """An audit at this moment."""
    return Call("GET", _of(AUDITS, audit_id), Audit.model_validate_json)


def audit_events(audit_id: str, last_event_id: str) -> Call[bytes]:
    """What happened to an audit since `last_event_id`, as server-sent events."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    return Call("GET", _of(AUDITS, audit_id) + "/events", bytes, headers=headers)


def cancel_audit(audit_id: str) -> Call[Audit]:
    """Stop an audit; what it found so far stays."""
    return Call("DELETE", _of(AUDITS, audit_id), Audit.model_validate_json)


def report(audit_id: str, format: Literal["json", "html", "markdown"] = "json") -> Call[bytes]:
    """The report of an audit that has succeeded, as UTF-8."""
    return Call("GET", _of(AUDITS, audit_id) + "/report", bytes, {"format": format})


def rows(audit_id: str) -> Call[list[dict[str, Any]]]:
    """The raw rows of an audit so far; `kind` says what a row is of."""
    path = _of(AUDITS, audit_id) + "/samples"
    return Call("GET", path, lambda body: [json.loads(line) for line in body.splitlines()])


def upload_dataset(file: bytes | BinaryIO, *, model: str | None = None) -> Call[Dataset]:
    """Send a zip of class folders or an .npz; with `model`, in the size that it takes."""
    return Call("POST", DATASETS, Dataset.model_validate_json, _given(model=model), file=file)


def datasets() -> Call[list[Dataset]]:
    """Every uploaded data set, newest first."""
    listed = TypeAdapter(list[Dataset])
    return Call("GET", DATASETS, lambda body: listed.validate_python(json.loads(body)["datasets"]))


def delete_dataset(dataset_id: str) -> Call[None]:
    """Delete a data set that no queued or running audit needs."""
    return Call("DELETE", _of(DATASETS, dataset_id), _nothing)


def _given(**params: object) -> dict[str, str]:
    return {name: str(value) for name, value in params.items() if value is not None}


def _of(path: str, name: str) -> str:
    return f"{path}/{quote(name, safe='')}"


def _nothing(body: bytes) -> None:
    del body
