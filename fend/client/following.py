"""How an audit is followed: what its events mean, and when a broken stream is opened again."""

from collections.abc import Callable
from typing import Any

from httpx_sse import ServerSentEvent

from fend.client import calls
from fend.client.retry import Failure, RetryBudget, ServiceUnreachable, unexpected
from fend.errors import RemoteError

OnProgress = Callable[[int, int], None]
"""Is told the images done, and all."""

SILENCE_S = 60.0
"""Longest silence of a healthy service while an audit is followed: it sends a comment each 15 s."""
RECONNECT_S = 600.0
"""Time without any event until the service counts as gone: an upgrade takes some minutes."""


class Following:
    """One follower of one audit; misses no event over a restart of the service."""

    def __init__(self, audit_id: str, on_progress: OnProgress | None) -> None:
        self._audit_id = audit_id
        self._on_progress = on_progress
        self._last_event_id = ""
        self._budget = RetryBudget(RECONNECT_S)

    def request(self) -> dict[str, Any]:
        """The arguments for httpx: asks for the events that were not seen yet."""
        return calls.audit_events(self._audit_id, self._last_event_id).request()

    def ends(self, event: ServerSentEvent) -> bool:
        """Whether `event` says that the audit has succeeded.

        Raises:
            RemoteError: the audit failed, with the code of its error, or was cancelled
                (`audit_cancelled`).
            ServiceUnreachable: the event is not of the form that this version reads.
        """
        self._last_event_id = event.id or self._last_event_id
        self._budget = RetryBudget(RECONNECT_S)
        if event.event not in ("progress", "end"):
            return False
        try:
            data = event.json()
            if event.event == "progress":
                if self._on_progress is not None:
                    self._on_progress(data["done"], data["total"])
                return False
            state, code, message = data["state"], data["error_code"], data["error"]
        except (ValueError, KeyError, TypeError) as error:
            raise unexpected(f"the audit {self._audit_id}").error from error
        if state == "cancelled":
            raise RemoteError("the audit was cancelled", code="audit_cancelled", status=409)
        if state != "succeeded":
            raise RemoteError(f"the audit failed: {message}", code=code)
        return True

    def wait_s(self, failure: Failure | None) -> float:
        """How long to wait before the stream is opened again, after `failure` or its early end.

        Raises:
            RemoteError, ServiceUnreachable: it is no use, or has lasted too long.
        """
        if failure is None or isinstance(failure.error, ServiceUnreachable):
            gone = "the service went silent; the audit goes on when it is back"
            failure = Failure(failure.error if failure else ServiceUnreachable(gone), 1.0)
        return self._budget.wait_s(failure)
