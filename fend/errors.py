"""The root of every error that Fend raises on purpose.

Each case is a subclass with a stable `code` that clients may rely on; its message tells the reader
what is wrong and what to do. The service maps codes to HTTP answers, the command line prints them.
"""

from typing import ClassVar


class FendError(Exception):
    """Something the caller can put right."""

    code: ClassVar[str] = "fend_error"
