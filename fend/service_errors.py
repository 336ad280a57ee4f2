"""What goes wrong between a client and a running service."""

from fend.errors import FendError


class ServiceUnreachable(FendError):
    """Nothing answers at the URL, or not as a Fend service does."""

    code = "service_unreachable"


class ServiceRefused(FendError):
    """The service said why not.

    Attributes:
        code: of its problem; stable.
        status: of its HTTP answer, where there was one.
    """

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status  # type: ignore[assignment]
