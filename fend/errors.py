"""Every error that Fend raises on purpose: eight families, each with its HTTP status.

`code` is stable and clients may rely on it; the message tells the reader what is wrong and what to
do. Raise a family with `code=...`, and with `status=...` where HTTP has a more exact one; write a
subclass only where somebody catches it by type. The service answers with `status`, the command
line prints the message.
"""

import sys
import unicodedata
from pathlib import Path
from shutil import which

TURNS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of writing around, and so can make text read as another."""


def printable(text: str) -> str:
    """`text` on one line, without what controls a terminal: names and labels can hold anything."""
    if text.isprintable():
        return text
    return "".join(
        " " if character.isspace()
        else "\N{REPLACEMENT CHARACTER}"
        if character in TURNS or unicodedata.category(character) in ("Cc", "Cs")
        else character
        for character in text
    )  # fmt: skip


class FendError(Exception):
    """Something the caller can put right. Raise one of the families below."""

    status: int = 500
    code: str = "fend_error"
    retry_after_s: float | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """`code` and `status` replace the class's; `retry_after_s` says when to ask again."""
        super().__init__(message)
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class Invalid(FendError):
    """The request, file or setting cannot be used as it is."""

    status = 422
    code = "invalid"


class NotFound(FendError):
    """Nothing has this name or id."""

    status = 404
    code = "not_found"


class Conflict(FendError):
    """The request does not fit the present state."""

    status = 409
    code = "conflict"


class TooLarge(FendError):
    """More bytes, pixels or items than the limit."""

    status = 413
    code = "too_large"


class Unsupported(FendError):
    """A format or type that Fend does not read."""

    status = 415
    code = "unsupported"


class Busy(FendError):
    """Over a limit of load; `retry_after_s` says when to ask again."""

    status = 429
    code = "busy"


class Unavailable(FendError):
    """Something that is needed is not there now."""

    status = 503
    code = "unavailable"


class Timeout(FendError):
    """The deadline passed before the work was done."""

    status = 504
    code = "timeout"


class RemoteError(FendError):
    """An error that another process or service reported, with its own code and status."""


def extra_missing(what: str, extra: str) -> Unavailable:
    """The error where `what` needs an extra that is not installed, with the line that installs it.

    In a checkout that is its own path: the package index may have another program of this name.
    """
    checkout = Path(__file__).parents[1]
    editable = (checkout / "pyproject.toml").is_file()
    place = f"-e '{checkout}[{extra}]'" if editable else f"'fend[{extra}]'"
    active = Path(which("pip") or "").parent == Path(sys.executable).parent
    pip = "pip" if active else f"{sys.executable} -m pip"
    return Unavailable(
        f"{what}, which comes with fend[{extra}]: {pip} install {place}", code="dependency_missing"
    )
