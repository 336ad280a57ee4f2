"""When a call is sent again, and for how long: a busy or restarting service gets some patience.

Every call of the client may be repeated, since none changes anything twice.
"""

import json
import random
from dataclasses import dataclass

import httpx

from fend.errors import FendError
from fend.service_errors import ServiceRefused, ServiceUnreachable

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
BUSY = frozenset({429, 502, 503})
"""Too much to do, or a service (behind a proxy or not) that starts or stops."""


@dataclass(frozen=True)
class Failure:
    """A call that gave no answer."""

    error: FendError
    retry_after_s: float | None = None
    """At least so long should be waited before the next try; None: another try is no use."""


class Patience:
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
    """What an answer other than 200 means."""
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
        return Failure(
            ServiceUnreachable(
                f"{response.url} answers {status}, and not as a Fend service does; check the URL"
            ),
            retry_after_s,
        )
    if code.startswith("bundle_") or code == "model_unloaded":  # until somebody does something
        retry_after_s = None
    return Failure(ServiceRefused(code, detail, status), retry_after_s)


def not_reached(url: str, error: httpx.TransportError) -> Failure:
    """What it means that there was no answer at all."""
    if isinstance(error, httpx.TimeoutException):
        message = f"{url} did not answer in time; give it longer, or less to do"
        return Failure(ServiceUnreachable(message))
    message = f"{url} does not answer ({error}); is the service running there?"
    return Failure(ServiceUnreachable(message), 0.0)
