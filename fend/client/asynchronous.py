"""The client for asyncio: `Client` with `await`."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import httpx
from httpx_sse import EventSource

from fend.client import calls
from fend.client.answers import Classification
from fend.client.calls import Call
from fend.client.following import SILENCE_S, Following, OnProgress
from fend.client.image import Image
from fend.client.retry import Failure, RetryBudget, failure_of, http_options, not_reached
from fend.errors import FendError

P = ParamSpec("P")
T = TypeVar("T")


class _Sender(Protocol):
    async def send(self, call: Call[T], /) -> T: ...


class _Sends(Generic[P, T]):
    """A method that sends the call of a function of `calls`."""

    def __init__(self, make: Callable[P, Call[T]]) -> None:
        self._make = make

    def __get__(self, sender: _Sender, _: type) -> Callable[P, Coroutine[Any, Any, T]]:
        @wraps(self._make)
        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return await sender.send(self._make(*args, **kwargs))

        return method


class AsyncClient:
    """A running service. Arguments, methods and errors are those of `Client`."""

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
        self._http = httpx.AsyncClient(**http_options(url, key, timeout_s))
        self._patience_s = patience_s
        self._concurrency = concurrency
        self.audits = AsyncAudits(self._http, self.send)
        self.datasets = AsyncDatasets(self.send)

    classify = _Sends(calls.classify)
    denoise = _Sends(calls.denoise)
    models = _Sends(calls.models)
    activate = _Sends(calls.activate)

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

    async def send(self, call: Call[T]) -> T:
        """Send a call, again where that helps."""
        budget = RetryBudget(self._patience_s)
        while True:
            try:
                outcome = call.outcome(await self._http.request(**call.request()))
            except httpx.TransportError as error:
                outcome = not_reached(str(self._http.base_url), error)
            if not isinstance(outcome, Failure):
                return outcome
            await asyncio.sleep(budget.wait_s(outcome))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class AsyncAudits:
    """`Audits` with `await`."""

    def __init__(self, http: httpx.AsyncClient, send: Any) -> None:
        self._http = http
        self.send = send

    start = _Sends(calls.start_audit)
    get = _Sends(calls.audit)
    cancel = _Sends(calls.cancel_audit)
    report = _Sends(calls.report)
    rows = _Sends(calls.rows)

    async def follow(self, audit_id: str, on_progress: OnProgress | None = None) -> None:
        """Return when the audit has succeeded, and raise as `Audits.follow`."""
        following = Following(audit_id, on_progress)
        while True:
            failure = None
            try:
                async with self._http.stream(**following.request(), timeout=SILENCE_S) as response:
                    if not response.is_success:
                        await response.aread()
                        failure = failure_of(response)
                    else:
                        async for event in EventSource(response).aiter_sse():
                            if following.ends(event):
                                return
            except httpx.TransportError as error:
                failure = not_reached(str(self._http.base_url), error)
            await asyncio.sleep(following.wait_s(failure))


class AsyncDatasets:
    """`Datasets` with `await`."""

    def __init__(self, send: Any) -> None:
        self.send = send

    upload = _Sends(calls.upload_dataset)
    list = _Sends(calls.datasets)
    delete = _Sends(calls.delete_dataset)
