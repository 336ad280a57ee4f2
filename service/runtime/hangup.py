"""Says that a client has left, at the moment it leaves."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HANGUP = "fend.hangup"
"""Where a request's `Hangup` is among the extensions of its ASGI scope."""


class Hangup:
    """One for each connection, which works on one request at a time and calls `tell`."""

    __slots__ = ("_gone", "_listener")

    def __init__(self) -> None:
        self._gone = False
        self._listener: Callable[[], None] | None = None

    def tell(self) -> None:
        """The client has left."""
        self._gone = True
        if self._listener is not None:
            self._listener()

    @contextmanager
    def tells(self, listener: Callable[[], None]) -> Iterator[None]:
        """`listener` is called when the client leaves, soon where it already has."""
        self._listener = listener
        soon = asyncio.get_running_loop().call_soon(listener) if self._gone else None
        try:
            yield
        finally:
            self._listener = None
            if soon is not None:
                soon.cancel()
