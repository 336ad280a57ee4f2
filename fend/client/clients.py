"""The clients: `Client` for plain programs, `AsyncClient` for asyncio; threads may share one.

What both can do is listed once: `_Sends` makes a method of a function of `calls`, which returns
its result in the one and is awaited in the other.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar, overload

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


class _Sync:
    def __init__(self, http: httpx.Client, patience_s: float) -> None:
        self._http = http
        self._patience_s = patience_s

    def send(self, call: Call[T]) -> T:
        """Send a call, again where that helps."""
        budget = RetryBudget(self._patience_s)
        while True:
            try:
                outcome = call.outcome(self._http.request(**call.request()))
            except httpx.TransportError as error:
                outcome = not_reached(str(self._http.base_url), error)
            if not isinstance(outcome, Failure):
                return outcome
            time.sleep(budget.wait_s(outcome))


class _Async:
    def __init__(self, http: httpx.AsyncClient, patience_s: float) -> None:
        self._http = http
        self._patience_s = patience_s

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


class _Sends(Generic[P, T]):
    def __init__(self, make: Callable[P, Call[T]]) -> None:
        self._make = make

    @overload
    def __get__(self, sender: _Sync, _: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, sender: _Async, _: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, sender: Any, _: type) -> Any:
        @wraps(self._make)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await sender.send(self._make(*args, **kwargs))

        @wraps(self._make)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return sender.send(self._make(*args, **kwargs))

        return awaited if isinstance(sender, _Async) else method


class _Images:
    classify = _Sends(calls.classify)
    denoise = _Sends(calls.denoise)
    models = _Sends(calls.models)
    activate = _Sends(calls.activate)


class _Audits:
    start = _Sends(calls.start_audit)
    get = _Sends(calls.audit)
    cancel = _Sends(calls.cancel_audit)
    report = _Sends(calls.report)
    rows = _Sends(calls.rows)


class _Datasets:
    upload = _Sends(calls.upload_dataset)
    list = _Sends(calls.datasets)
    delete = _Sends(calls.delete_dataset)


class Audits(_Audits, _Sync):
    """The audits of a service."""

    def follow(self, audit_id: str, on_progress: OnProgress | None = None) -> None:
        """Return when the audit has succeeded; `on_progress` is told the images done, and all.

        Connects again when the connection breaks or the service restarts, and misses nothing.

        Raises:
            RemoteError: the audit failed, with the code of its error, was cancelled
                (`audit_cancelled`), or is not known.
            ServiceUnreachable: the service does not come back.
        """
        following = Following(audit_id, on_progress)
        while True:
            failure = None
            try:
                with self._http.stream(**following.request(), timeout=SILENCE_S) as response:
                    if not response.is_success:
                        response.read()
                        failure = failure_of(response)
                    elif any(map(following.ends, EventSource(response).iter_sse())):
                        return
            except httpx.TransportError as error:
                failure = not_reached(str(self._http.base_url), error)
            time.sleep(following.wait_s(failure))


class AsyncAudits(_Audits, _Async):
    """`Audits` with `await`."""

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


class Datasets(_Datasets, _Sync):
    """The uploaded data sets of a service."""


class AsyncDatasets(_Datasets, _Async):
    """`Datasets` with `await`."""


class Client(_Images, _Sync):
    """A running service.

    Every method raises RemoteError, with the `code` and `status` of the service's problem, or
    ServiceUnreachable. A busy or restarting service is asked again, after its Retry-After.

    Attributes:
        audits: start, follow and read audits; `key` must be the admin token.
        datasets: labelled images for audits; `key` must be the admin token.
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
            key: sent as a Bearer token.
            timeout_s: seconds for connecting, and for each silence of the service.
            patience_s: seconds that one call may spend waiting between its tries; 0 tries once.
            concurrency: requests at a time in `classify_batch`.
        """
        super().__init__(httpx.Client(**http_options(url, key, timeout_s)), patience_s)
        self._concurrency = concurrency
        self.audits = Audits(self._http, patience_s)
        self.datasets = Datasets(self._http, patience_s)

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

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Images, _Async):
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
        super().__init__(httpx.AsyncClient(**http_options(url, key, timeout_s)), patience_s)
        self._concurrency = concurrency
        self.audits = AsyncAudits(self._http, patience_s)
        self.datasets = AsyncDatasets(self._http, patience_s)

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

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
