"""Natural batching: what waits when the model is free goes through it together, and nothing waits
for a batch to fill.

    submit() --> queue --> [worker: take all that wait, drop the dead, infer] --> each future

One caller never harms another: a caller that left is dropped when the batch is formed, and a batch
that fails as a whole is run again one by one, so that only what is broken fails.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

from fend.errors import FendError
from service.runtime.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")

SERVICE_TIME_WEIGHT = 0.2
"""How much the newest batch counts in the running mean of the time an item takes."""


class Overloaded(FendError):
    """More is in the works than the service takes on."""

    code: ClassVar[str] = "overloaded"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the service has all the work it can take; retry in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(FendError):
    """There was no answer in time; the work is dropped."""

    code: ClassVar[str] = "deadline_exceeded"


class Stopping(FendError):
    """The service stops and takes nothing new."""

    code: ClassVar[str] = "stopping"


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    since_s: float = field(default_factory=time.monotonic)


class Batcher(Generic[Item, Result]):
    """Runs `infer` on batches of items; used from one event loop.

    `infer` takes 1 to `max_batch` items and gives one result or one exception for each, in order.
    """

    def __init__(
        self,
        infer: Callable[[Sequence[Item]], Awaitable[Sequence[Result | FendError]]],
        *,
        max_batch: int,
        capacity: int,
        metrics: Metrics,
    ) -> None:
        self._infer = infer
        self._max_batch = max_batch
        self._capacity = capacity
        self._metrics = metrics
        self._queue: asyncio.Queue[_Waiting[Item, Result]] = asyncio.Queue()
        self._admitted = 0
        self._item_s = 0.0
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take batches."""
        self._worker = asyncio.create_task(self._work())

    @property
    def alive(self) -> bool:
        """Whether batches are taken."""
        return self._worker is not None and not self._worker.done()

    async def stop(self) -> None:
        """End the worker; whatever still waits gets `Stopping`."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
            self._worker = None
        while not self._queue.empty():
            self._settle(self._next(), Stopping("the service is stopping; retry elsewhere"))

    @contextmanager
    def admission(self) -> Iterator[None]:
        """A place among the `capacity` items in the works, from before decoding to the answer.

        Raises:
            Overloaded: all places are taken. Its `retry_after_s` is the measured time to empty.
        """
        if self._admitted >= self._capacity:
            raise Overloaded(max(1, math.ceil(self._admitted * self._item_s)))
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def submit(self, item: Item) -> Result:
        """The result for `item`; cancelling the caller drops the item."""
        if not self.alive:
            raise Stopping("the service is stopping; retry elsewhere")
        waiting = _Waiting[Item, Result](item, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        self._metrics.queue_depth.inc()
        return await waiting.future

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            self._metrics.queue_depth.dec()
            while len(batch) < self._max_batch and not self._queue.empty():
                batch.append(self._next())
            batch = [waiting for waiting in batch if not waiting.future.done()]
            if batch:
                await self._run(batch)

    def _next(self) -> _Waiting[Item, Result]:
        self._metrics.queue_depth.dec()
        return self._queue.get_nowait()

    async def _run(self, batch: list[_Waiting[Item, Result]]) -> None:
        started_s = time.monotonic()
        for waiting in batch:
            self._metrics.inference_queue.observe(started_s - waiting.since_s)
        try:
            outcomes = await self._infer([waiting.item for waiting in batch])
            settled = list(zip(batch, outcomes, strict=True))
        except asyncio.CancelledError:
            for waiting in batch:
                self._settle(waiting, Stopping("the service stopped before this was answered"))
            raise
        except Exception as error:
            if len(batch) == 1:
                self._settle(batch[0], error)
                return
            for waiting in batch:
                await self._run([waiting])
            return
        self._metrics.batch_size.observe(len(batch))
        self._measure((time.monotonic() - started_s) / len(batch))
        for waiting, outcome in settled:
            self._settle(waiting, outcome)

    def _measure(self, item_s: float) -> None:
        weight = SERVICE_TIME_WEIGHT if self._item_s else 1.0
        self._item_s += weight * (item_s - self._item_s)

    @staticmethod
    def _settle(waiting: _Waiting[Item, Result], outcome: Result | Exception) -> None:
        # The caller may have left at any moment; an answer to nobody must not end the worker.
        if waiting.future.done():
            return
        if isinstance(outcome, Exception):
            waiting.future.set_exception(outcome)
        else:
            waiting.future.set_result(outcome)
