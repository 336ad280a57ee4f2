"""The client for plain programs. Threads may share one."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    def send(self, call: Call[T], /) -> T: ...


class _Sends(Generic[P, T]):
    """A method that sends the call of a function of `calls`."""

    def __init__(self, make: Callable[P, Call[T]]) -> None:
        self._make = make

    def __get__(self, sender: _Sender, _: type) -> Callable[P, T]:
        @wraps(self._make)
        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return sender.send(self._make(*args, **kwargs))

        return method


class Client:
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
        self._http = httpx.Client(**http_options(url, key, timeout_s))
        self._patience_s = patience_s
        self._concurrency = concurrency
        self.audits = Audits(self._http, self.send)
        self.datasets = Datasets(self.send)

    classify = _Sends(calls.classify)
    denoise = _Sends(calls.denoise)
    models = _Sends(calls.models)
    activate = _Sends(calls.activate)

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

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Audits:
    """The audits of a service."""

    def __init__(self, http: httpx.Client, send: Any) -> None:
        self._http = http
        self.send = send

    start = _Sends(calls.start_audit)
    get = _Sends(calls.audit)
    cancel = _Sends(calls.cancel_audit)
    report = _Sends(calls.report)
    rows = _Sends(calls.rows)

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


class Datasets:
    """The uploaded data sets of a service."""

    def __init__(self, send: Any) -> None:
        self.send = send

    upload = _Sends(calls.upload_dataset)
    list = _Sends(calls.datasets)
    delete = _Sends(calls.delete_dataset)
