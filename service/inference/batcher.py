"""Natural batching: what waits when the model is free goes through it together, and nothing waits
for a batch to fill.

    submit() --> queue --> [worker: take all that wait, drop the dead, infer] --> each future

One caller never harms another: who has left, or whose time is up, is dropped when the batch is
formed, and a batch that fails as a whole is run again one by one, so that only what is broken
fails. What cannot be answered in time is refused at the door, by the measured time of batches.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fend.errors import Busy, FendError, Timeout, Unavailable
from service.observe.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")


MEMORY = 0.97
"""How much an older batch counts against the next newer one: about thirty are remembered."""


class DeadlineExceeded(Timeout):
    """There was no answer in time; the work is dropped."""

    code = "deadline_exceeded"

    def __init__(self, waited_s: float, wanted: str = "answer") -> None:
        within = f"within {waited_s:.2g} s" if waited_s > 0 else "within the time given"
        super().__init__(f"no {wanted} {within}; the work is dropped, retry later")


def overloaded(wait_s: float) -> Busy:
    """The refusal of what is too much; there should be room in `wait_s`."""
    retry_after_s = max(1, math.ceil(wait_s))
    return Busy(
        f"the service has all the work it can take; retry in {retry_after_s} s",
        code="overloaded",
        retry_after_s=retry_after_s,
    )


class Stopping(Unavailable):
    """The service stops and takes nothing new."""

    code = "stopping"


@dataclass(frozen=True)
class Served(Generic[Result]):
    """A result and where its time went."""

    result: Result
    queue_s: float
    compute_s: float
    """Of the whole batch."""


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Served[Result]]
    deadline_s: float
    since_s: float = field(default_factory=time.monotonic)
    queue_s: float = 0.0
    late: bool = False
    """It was told that its time is up."""


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
        self._empty = asyncio.Event()
        self._empty.set()
        self._latency = LatencyModel()
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take batches."""
        self._worker = asyncio.create_task(self._work())

    @property
    def alive(self) -> bool:
        """Whether batches are taken."""
        return self._worker is not None and not self._worker.done()

    def check_room(self) -> None:
        """Raises Busy where `admission` has no place left; cheap."""
        if self._admitted >= self._capacity:
            raise overloaded(self._latency.drain_s(self._admitted + 1, self._max_batch))

    async def stop(self) -> None:
        """End the worker; whatever still waits gets `Stopping`."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
            self._worker = None
        while not self._queue.empty():
            self._settle(self._next(), Stopping("the service is stopping; retry elsewhere"))

    async def drained(self) -> None:
        """Return when nothing is in flight: by the last deadline at the latest."""
        await self._empty.wait()

    @contextmanager
    def admission(self, items: int = 1, deadline_s: float = math.inf) -> Iterator[None]:
        """Places for `items` among the `capacity` in flight, from before decoding to the answer.

        `deadline_s` is on the clock of `time.monotonic`.

        Raises:
            Busy: there are not as many places, or the deadline would pass before the answer.
                Its `retry_after_s` is the measured time until there is room.
        """
        expected_s = self._latency.drain_s(self._admitted + items, self._max_batch)
        late_s = expected_s - (deadline_s - time.monotonic())
        if self._admitted + items > self._capacity:
            raise overloaded(expected_s)
        # With nothing in flight it is tried whatever is expected, or that could not be unlearnt.
        if self._admitted and late_s > 0:
            raise overloaded(late_s)
        self._admitted += items
        self._empty.clear()
        try:
            yield
        finally:
            self._admitted -= items
            if self._admitted == 0:
                self._empty.set()

    async def submit(self, item: Item, deadline_s: float = math.inf) -> Served[Result]:
        """The result for `item`; cancelling the caller drops the item.

        Raises:
            DeadlineExceeded: there was no result in time; it is not computed, or thrown away.
            Stopping.
        """
        if not self.alive:
            raise Stopping("the service is stopping; retry elsewhere")
        loop = asyncio.get_running_loop()
        waiting = _Waiting[Item, Result](item, loop.create_future(), deadline_s)
        self._queue.put_nowait(waiting)
        self._metrics.queue_depth.inc()
        if math.isinf(deadline_s):
            return await waiting.future
        timer = loop.call_later(deadline_s - waiting.since_s, self._give_up, waiting)
        try:
            return await waiting.future
        finally:
            timer.cancel()

    def _give_up(self, waiting: _Waiting[Item, Result]) -> None:
        waiting.late = True
        self._settle(waiting, DeadlineExceeded(waiting.deadline_s - waiting.since_s))

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            self._metrics.queue_depth.dec()
            while len(batch) < self._max_batch and not self._queue.empty():
                batch.append(self._next())
            batch = self._still_wanted(batch)
            if batch:
                await self._take(batch)

    def _still_wanted(self, batch: list[_Waiting[Item, Result]]) -> list[_Waiting[Item, Result]]:
        now_s = time.monotonic()
        for waiting in batch:
            if waiting.deadline_s <= now_s:
                self._give_up(waiting)
            if waiting.future.done():
                reason = "deadline_exceeded" if waiting.late else "client_gone"
                self._metrics.dropped.labels(reason).inc()
        return [waiting for waiting in batch if not waiting.future.done()]

    def _next(self) -> _Waiting[Item, Result]:
        self._metrics.queue_depth.dec()
        return self._queue.get_nowait()

    async def _take(self, batch: list[_Waiting[Item, Result]]) -> None:
        """Run a batch; one that fails as a whole is run again item by item."""
        for waiting in batch:
            waiting.queue_s = time.monotonic() - waiting.since_s
            self._metrics.inference_queue.observe(waiting.queue_s)
        try:
            if await self._run(batch):
                return
            for waiting in batch:
                if self._still_wanted([waiting]):
                    await self._run([waiting])
        except asyncio.CancelledError:
            for waiting in batch:
                self._settle(waiting, Stopping("the service stopped before this was answered"))
            raise

    async def _run(self, batch: list[_Waiting[Item, Result]]) -> bool:
        """Whether every item was settled: False where the batch failed as a whole."""
        started_s = time.monotonic()
        try:
            outcomes = await self._infer([waiting.item for waiting in batch])
            settled = list(zip(batch, outcomes, strict=True))
        except Exception as error:
            if len(batch) > 1:
                return False
            self._settle(batch[0], error)
            return True
        compute_s = time.monotonic() - started_s
        self._metrics.batch_size.observe(len(batch))
        self._latency.observe(len(batch), compute_s)
        for waiting, outcome in settled:
            if not isinstance(outcome, FendError):
                self._settle(waiting, Served(outcome, waiting.queue_s, compute_s))
            else:
                self._settle(waiting, outcome)
        return True

    @staticmethod
    def _settle(waiting: _Waiting[Item, Result], outcome: Served[Result] | Exception) -> None:
        # The caller may have left at any moment; an answer to nobody must not end the worker.
        if waiting.future.done():
            return
        if isinstance(outcome, Exception):
            waiting.future.set_exception(outcome)
        else:
            waiting.future.set_result(outcome)


class LatencyModel:
    """How long a batch takes, learnt while serving: seconds = fixed + per_item * items, by least
    squares with exponential forgetting.

    Before the first batch it knows nothing and predicts 0, so that nothing is refused for it.
    """

    def __init__(self) -> None:
        self._weight = self._n = self._s = self._nn = self._ns = 0.0

    def observe(self, items: int, duration_s: float) -> None:
        """Learn from a batch of `items` that took `duration_s`."""
        self._weight = MEMORY * self._weight + 1
        self._n = MEMORY * self._n + items
        self._s = MEMORY * self._s + duration_s
        self._nn = MEMORY * self._nn + items * items
        self._ns = MEMORY * self._ns + items * duration_s

    def batch_s(self, items: int) -> float:
        """The time that a batch of `items` should take."""
        fixed_s, item_s = self._line()
        return fixed_s + item_s * items

    def drain_s(self, items: int, max_batch: int) -> float:
        """The time until the last of `items` that wait is answered, in batches of `max_batch`."""
        whole, rest = divmod(items, max_batch)
        return whole * self.batch_s(max_batch) + (self.batch_s(rest) if rest else 0.0)

    def _line(self) -> tuple[float, float]:
        """The fixed time and that of each item, neither below 0."""
        if not self._weight:
            return 0.0, 0.0
        mean_n, mean_s = self._n / self._weight, self._s / self._weight
        spread = self._nn / self._weight - mean_n**2
        # Batches of one size tell nothing of the slope: as if nothing were fixed.
        if spread < 1e-9 * max(1.0, mean_n**2):
            return 0.0, mean_s / mean_n
        item_s = max(0.0, (self._ns / self._weight - mean_n * mean_s) / spread)
        fixed_s = mean_s - item_s * mean_n
        return (fixed_s, item_s) if fixed_s >= 0 else (0.0, mean_s / mean_n)
