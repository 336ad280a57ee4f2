"""The folder in which the service keeps what must outlive it: audits, uploads, choices."""

from fend.errors import FendError


class StateUnavailable(FendError):
    """The state directory cannot be used."""

    code = "state_unavailable"
