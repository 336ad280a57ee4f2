"""Every call of the client as data: what is sent, and how the answer is read.

Nothing here touches the network, so both clients share all of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from opentelemetry.propagate import inject
from pydantic import BaseModel, ConfigDict, TypeAdapter

from fend.answers import Classification
from fend.client.retry import Failure, failure_of
from fend.errors import FendError
from fend.service_errors import ServiceUnreachable

T = TypeVar("T")

Image = bytes | Path
"""A whole PNG, JPEG, WebP or BMP file, or where it is."""


class ImageUnreadable(FendError):
    """The file of an image cannot be read here."""

    code = "image_unreadable"


class Model(BaseModel):
    """A model of the service. All but the first three are None where it was refused."""

    model_config = ConfigDict(frozen=True)

    name: str
    available: bool
    default: bool
    version: str | None = None
    labels: list[str] | None = None
    input: dict[str, Any] | None = None
    denoiser: str | None = None
    classifier: str | None = None
    sigma: float | None = None
    """Of the noise that answers can be certified with; None where they cannot."""
    refused: str | None = None


class Progress(BaseModel):
    """How far an audit is, in images."""

    done: int
    total: int


class AuditFailure(BaseModel):
    """Why an audit failed."""

    code: str
    message: str


class Audit(BaseModel):
    """An audit at this moment."""

    state: str
    progress: Progress
    error: AuditFailure | None

    @property
    def ended(self) -> bool:
        """Whether it has come to an end, good or not."""
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request that may be sent again, and how the body of its answer is read."""

    method: str
    path: str
    read: Callable[[bytes], T]
    params: Mapping[str, str] = field(default_factory=dict)
    image: bytes | None = None
    body: Mapping[str, Any] | None = None
    """Sent as JSON."""

    def request(self) -> dict[str, Any]:
        """The arguments for httpx."""
        headers: dict[str, str] = {}
        inject(headers)  # traceparent, where the caller traces
        sent: dict[str, Any] = {
            "method": self.method, "url": self.path, "params": self.params, "headers": headers
        }  # fmt: skip
        if self.image is not None:
            sent["files"] = {"file": ("image", self.image, "application/octet-stream")}
        if self.body is not None:
            sent["json"] = self.body
        return sent

    def outcome(self, response: httpx.Response) -> T | Failure:
        """What was asked for, or why there is none."""
        if response.status_code != 200:
            return failure_of(response)
        try:
            return self.read(response.content)
        except ValueError:
            return Failure(
                ServiceUnreachable(
                    f"{response.url} answers otherwise than this version of Fend expects; use the "
                    "version that runs there"
                )
            )


def classify(
    image: Image, model: str | None, top_k: int | None, denoised: bool, certify: bool
) -> Call[Any]:
    """POST /v1/classify; reads a Classification."""
    params = _given(
        model=model,
        top_k=top_k,
        include="denoised" if denoised else None,
        certify="true" if certify else None,
    )
    return Call(
        "POST", "/v1/classify", Classification.model_validate_json, params, read_image(image)
    )


def denoise(image: Image, model: str | None) -> Call[bytes]:
    """POST /v1/denoise; reads a PNG."""
    return Call("POST", "/v1/denoise", bytes, _given(model=model), read_image(image))


def models() -> Call[list[Model]]:
    """GET /v1/models."""
    listed = TypeAdapter(dict[str, list[Model]])
    return Call("GET", "/v1/models", lambda body: listed.validate_json(body)["models"])


def activate(name: str, version: str) -> Call[None]:
    """POST /v1/admin/models/{name}/activate."""
    path = f"/v1/admin/models/{quote(name, safe='')}/activate"
    return Call("POST", path, lambda _: None, body={"version": version})


def audit(audit_id: str) -> Call[Audit]:
    """GET /v1/admin/audits/{id}."""
    return Call("GET", f"/v1/admin/audits/{audit_id}", Audit.model_validate_json)


def read_image(image: Image) -> bytes:
    """The bytes of `image`; raises ImageUnreadable."""
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except OSError as error:
        raise ImageUnreadable(f"{image} cannot be read: {error.strerror}") from error


def check_url(url: str) -> str:
    """`url` without a slash at its end; raises ServiceUnreachable where it can be none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServiceUnreachable(
            f"{url!r} is no URL of a service; give one such as http://127.0.0.1:8000"
        )
    return url.rstrip("/")


def _given(**params: object) -> dict[str, str]:
    return {name: str(value) for name, value in params.items() if value is not None}
