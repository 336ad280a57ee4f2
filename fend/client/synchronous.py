"""The client for plain programs. Threads may share one."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import httpx

from fend.answers import Classification
from fend.client import calls
from fend.client.calls import Call, Image, Model
from fend.client.retry import Failure, Patience, not_reached
from fend.errors import FendError

if TYPE_CHECKING:
    from fend.audit.remote import RemoteService

T = TypeVar("T")


class Client:
    """A running service.

    Every method raises ServiceRefused, with the `code` of the service's problem, or
    ServiceUnreachable. A busy or restarting service is asked again, after its Retry-After.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_s: float = 30.0,
        patience_s: float = 30.0,
        concurrency: int = 8,
    ) -> None:
        """
        Args:
            url: such as "http://127.0.0.1:8000", or with a path before all of its routes.
            key: sent as a Bearer token; audits need the admin token.
            timeout_s: for connecting, and for each silence of the service.
            patience_s: that one call may spend waiting between its tries; 0 tries once.
            concurrency: requests at a time in `classify_batch`.
        """
        self._url = calls.check_url(url)
        self._key = key
        self._patience_s = patience_s
        self._concurrency = concurrency
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=self._url, headers=headers, timeout=timeout_s)

    def classify(
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
        answer: Classification = self._send(call)
        return answer

    def classify_batch(
        self, images: Sequence[Image], *, model: str | None = None, top_k: int | None = None
    ) -> list[Classification | FendError]:
        """One answer or one error for each image, in order; some requests at a time."""

        def one(image: Image) -> Classification | FendError:
            try:
                return self.classify(image, model=model, top_k=top_k)
            except FendError as error:
                return error

        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(one, images))

    def denoise(self, image: Image, *, model: str | None = None) -> bytes:
        """The cleaned image, a PNG in the size that the model takes."""
        return self._send(calls.denoise(image, model))

    def models(self) -> list[Model]:
        """Every model, serving or refused."""
        return self._send(calls.models())

    def activate(self, model: str, version: str) -> None:
        """Let the service serve this version of a model; `key` must be the admin token."""
        self._send(calls.activate(model, version))

    @cached_property
    def audits(self) -> "RemoteService":
        """Start, follow and read audits; `key` must be the admin token."""
        from fend.audit.remote import RemoteService  # imports torch

        return RemoteService(self._url, self._key or "")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        patience = Patience(self._patience_s)
        while True:
            try:
                outcome = call.outcome(self._http.request(**call.request()))
            except httpx.TransportError as error:
                outcome = not_reached(self._url, error)
            if not isinstance(outcome, Failure):
                return outcome
            time.sleep(patience.wait_s(outcome))
