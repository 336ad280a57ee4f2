"""Costly work for single callers, on a thread of its own that steps behind serving.

A certificate takes a thousand passes of the model, an attack a hundred with gradients. So few are
taken on at a time, one is worked on at a time, and it is given up when its caller leaves or runs
out of patience.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch

from service.inference.batcher import DeadlineExceeded, overloaded
from service.settings import Priority

NICENESS = 10
"""A tenth of a busy core. It cannot be less, because this thread shares Python's lock: if it got no
turn while it holds that, the service would stand still."""

T = TypeVar("T")
Check = Callable[[], None]
"""Called between pieces of the work; raises when nobody wants it any more."""


class _GivenUp(Exception):
    """Nobody wants the result any more."""


class BackgroundThread:
    """Does one piece of work at a time; used from one event loop."""

    def __init__(
        self, name: str, *, capacity: int, priority: Priority, torch_threads: int | None
    ) -> None:
        """`capacity`: callers that may wait or be served at once."""
        self._name = name
        self._capacity = capacity
        self._admitted = 0
        self.last_s = 1.0
        """Duration of the last piece of work."""
        self._thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix=name,
            initializer=_prepare,
            initargs=(priority, torch_threads or 1),
        )

    async def close(self) -> None:
        """Finish what is worked on, and end the thread."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def check_room(self) -> None:
        """Raises Busy where there is no place for another caller."""
        if self._admitted >= self._capacity:
            raise overloaded(self.last_s)

    @contextmanager
    def admission(self) -> Iterator[None]:
        """A place among the callers.

        Raises:
            Busy: there is none.
        """
        self.check_room()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def run(self, work: Callable[[Check], T], deadline_s: float) -> T:
        """The result of `work`, which calls what it is given between its pieces.

        `deadline_s` is on the clock of `time.monotonic`. Cancelling gives the work up.

        Raises:
            DeadlineExceeded.
        """
        given_up = threading.Event()
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(deadline_s - started_s):
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._thread, self._timed, work, given_up)
        except TimeoutError as error:
            raise DeadlineExceeded(deadline_s - started_s, self._name) from error
        finally:
            given_up.set()

    def _timed(self, work: Callable[[Check], T], given_up: threading.Event) -> T:
        def check() -> None:
            if given_up.is_set():
                raise _GivenUp

        check()
        started_s = time.perf_counter()
        result = work(check)
        self.last_s = time.perf_counter() - started_s
        return result


def _prepare(priority: Priority, torch_threads: int) -> None:
    """In the thread itself, before its first work."""
    torch.set_num_threads(torch_threads)
    if priority == "low" and sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it; then the queue is all that limits it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
