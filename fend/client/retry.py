"""What a call that failed means, and whether and when it is sent again.

Every call may be repeated: none changes anything twice.
"""

import json
import random
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from fend.errors import FendError, RemoteError, Unavailable

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
BUSY = frozenset({429, 502, 503})
"""Statuses of a service (behind a proxy or not) that has too much to do, starts or stops."""


class ServiceUnreachable(Unavailable):
    """Nothing answers at the URL, or not as a Fend service does."""

    code = "service_unreachable"


@dataclass(frozen=True)
class Failure:
    """A call that gave no answer."""

    error: FendError
    retry_after_s: float | None = None
    """Seconds to wait at least before the next try; None: another try is no use."""


class RetryBudget:
    """What is left of the time that one call may spend waiting between its tries."""

    def __init__(self, total_s: float) -> None:
        self._left_s = total_s
        self._next_s = FIRST_WAIT_S

    def wait_s(self, failure: Failure) -> float:
        """How long to wait before the next try; raises the failure's error if there is none."""
        if failure.retry_after_s is None:
            raise failure.error
        # Random, so that many callers who were refused together do not come back together.
        wait_s = max(failure.retry_after_s, self._next_s) * random.uniform(1.0, 1.25)
        if wait_s > self._left_s:
            raise failure.error
        self._left_s -= wait_s
        self._next_s = min(2 * self._next_s, LONGEST_WAIT_S)
        return wait_s


def failure_of(response: httpx.Response) -> Failure:
    """What an answer other than 2xx means; its body must have been read."""
    status, retry_after_s = response.status_code, None
    if status in BUSY:
        given = response.headers.get("Retry-After", "")
        retry_after_s = float(given) if given.isdecimal() else 0.0
    try:
        problem = json.loads(response.content)
        code, detail = str(problem["code"]), str(problem["detail"])
    except (ValueError, TypeError, KeyError):
        code = detail = ""
    if code in ("", "not_found"):  # no service of ours, or a path that none of its routes has
        message = f"{response.url} answers {status}, and not as a Fend service does; check the URL"
        return Failure(ServiceUnreachable(message), retry_after_s)
    if code.startswith("bundle_") or code == "model_unloaded":  # until somebody does something
        retry_after_s = None
    error = RemoteError(detail, code=code, status=status, retry_after_s=retry_after_s)
    return Failure(error, retry_after_s)


def not_reached(url: str, error: httpx.TransportError) -> Failure:
    """What it means that there was no answer at all."""
    if isinstance(error, httpx.TimeoutException):
        message = f"{url} did not answer in time; give it longer, or less to do"
        return Failure(ServiceUnreachable(message))
    message = f"{url} does not answer ({error}); is the service running there?"
    return Failure(ServiceUnreachable(message), 0.0)


def unexpected(url: object) -> Failure:
    """An answer that is not of the form that this version reads."""
    message = f"{url} answers otherwise than this version of Fend expects; use the version there"
    return Failure(ServiceUnreachable(message))


def http_options(url: str, key: str | None, timeout_s: float) -> dict[str, Any]:
    """The arguments of httpx's clients. Redirects, which would carry the key elsewhere, are not
    followed.

    Raises:
        ServiceUnreachable: `url` can be none of a service.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServiceUnreachable(
            f"{url!r} is no URL of a service; give one such as http://127.0.0.1:8000"
        )
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return {"base_url": url.rstrip("/"), "headers": headers, "timeout": timeout_s}
