"""The folder in which the service keeps what must outlive it: audits, uploads, choices."""

from typing import ClassVar

from fend.errors import FendError


class StateUnavailable(FendError):
    """The state directory cannot be used."""

    code: ClassVar[str] = "state_unavailable"
