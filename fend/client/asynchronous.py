"""The client for asyncio: `Client` with `await`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from fend.answers import Classification
from fend.client import calls
from fend.client.calls import Audit, AuditFailure, Call, Image, Model
from fend.client.retry import Failure, Patience, not_reached
from fend.errors import FendError

if TYPE_CHECKING:
    from fend.audit.remote import RemoteService
    from fend.audit.report import AuditDocument
    from fend.audit.rows import Row

T = TypeVar("T")

POLL_S = 1.0
"""Between two looks at an audit that is followed."""


class AsyncClient:
    """A running service; as `Client`, and what it raises is the same."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_s: float = 30.0,
        patience_s: float = 30.0,
        concurrency: int = 8,
    ) -> None:
        """The arguments of `Client`."""
        self._url = calls.check_url(url)
        self._key = key
        self._patience_s = patience_s
        self._concurrency = concurrency
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(base_url=self._url, headers=headers, timeout=timeout_s)

    async def classify(
        self,
        image: Image,
        *,
        model: str | None = None,
        top_k: int | None = None,
        denoised: bool = False,
        certify: bool = False,
    ) -> Classification:
        """The answer to one image; with `denoised`, also the cleaned image as a data URL; with
        `certify`, also up to which L2 distance the answer provably holds."""
        call = calls.classify(image, model, top_k, denoised, certify)
        answer: Classification = await self._send(call)
        return answer

    async def classify_batch(
        self, images: Sequence[Image], *, model: str | None = None, top_k: int | None = None
    ) -> list[Classification | FendError]:
        """One answer or one error for each image, in order; some requests at a time."""
        places = asyncio.Semaphore(self._concurrency)

        async def one(image: Image) -> Classification | FendError:
            async with places:
                try:
                    return await self.classify(image, model=model, top_k=top_k)
                except FendError as error:
                    return error

        return await asyncio.gather(*map(one, images))

    async def denoise(self, image: Image, *, model: str | None = None) -> bytes:
        """The cleaned image, a PNG in the size that the model takes."""
        return await self._send(calls.denoise(image, model))

    async def models(self) -> list[Model]:
        """Every model, serving or refused."""
        return await self._send(calls.models())

    async def activate(self, model: str, version: str) -> None:
        """Let the service serve this version of a model; `key` must be the admin token."""
        await self._send(calls.activate(model, version))

    @property
    def audits(self) -> "AsyncAudits":
        """Start, follow and read audits; `key` must be the admin token."""
        from fend.audit.remote import RemoteService  # imports torch

        return AsyncAudits(RemoteService(self._url, self._key or ""), self._send)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _send(self, call: Call[T]) -> T:
        patience = Patience(self._patience_s)
        while True:
            try:
                outcome = call.outcome(await self._http.request(**call.request()))
            except httpx.TransportError as error:
                outcome = not_reached(self._url, error)
            if not isinstance(outcome, Failure):
                return outcome
            await asyncio.sleep(patience.wait_s(outcome))


class AsyncAudits:
    """The audits of a service; a report is read in a thread, since it can be long."""

    def __init__(
        self, service: "RemoteService", send: Callable[[Call[Audit]], Awaitable[Audit]]
    ) -> None:
        self._service = service
        self._send = send

    async def start(self, body: Mapping[str, Any]) -> str:
        """Ask for an audit, as the fields of a request; its id."""
        return await asyncio.to_thread(self._service.start, body)

    async def follow(self, audit_id: str, on_progress: Callable[[int, int], None]) -> None:
        """Return when the audit has succeeded; `on_progress` is told the images done, and all.

        Raises:
            ServiceUnreachable, ServiceRefused, AuditEndedElsewhere.
        """
        from fend.audit.remote import check_end

        while True:
            audit = await self._send(calls.audit(audit_id))
            on_progress(audit.progress.done, audit.progress.total)
            if audit.ended:
                why = audit.error or AuditFailure(code="audit_failed", message="")
                return check_end(audit.state, why.code, why.message)
            await asyncio.sleep(POLL_S)

    async def document(self, audit_id: str) -> "AuditDocument":
        """The report of an audit that has succeeded."""
        return await asyncio.to_thread(self._service.document, audit_id)

    async def rows(self, audit_id: str) -> "list[Row]":
        """The raw rows."""
        return await asyncio.to_thread(self._service.rows, audit_id)
