"""The batcher: together where they wait together, and never at the cost of a batch-mate."""

import asyncio
from collections.abc import Sequence

import pytest

from fend.errors import FendError
from service.runtime.batcher import Batcher, Overloaded, Stopping
from service.runtime.metrics import Metrics


class Doubler:
    """Doubles numbers; counts batches, can be held up, and has a number it chokes on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, items: Sequence[int]) -> list[int | FendError]:
        self.batches.append(list(items))
        await self.open.wait()
        if 13 in items:
            raise RuntimeError("13 breaks the whole batch")
        return [FendError("7 is refused") if item == 7 else 2 * item for item in items]


def make(model: Doubler, *, max_batch: int = 8, capacity: int = 100) -> Batcher[int, int]:
    batcher = Batcher[int, int](model, max_batch=max_batch, capacity=capacity, metrics=Metrics())
    batcher.start()
    return batcher


async def settle() -> None:
    """Let everything that can run, run."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_one_alone_does_not_wait_and_those_who_wait_go_together() -> None:
    async def scenario() -> None:
        model = Doubler()
        batcher = make(model)
        model.open.clear()
        first = asyncio.create_task(batcher.submit(1))
        await settle()
        assert model.batches == [[1]]
        rest = [asyncio.create_task(batcher.submit(item)) for item in range(20, 30)]
        await settle()
        assert model.batches == [[1]], "the model is busy: the rest must wait"
        model.open.set()
        assert await first == 2
        assert await asyncio.gather(*rest) == [2 * item for item in range(20, 30)]
        assert [len(batch) for batch in model.batches] == [1, 8, 2]
        await batcher.stop()

    asyncio.run(scenario())


def test_a_bad_item_fails_alone() -> None:
    async def scenario() -> None:
        model = Doubler()
        batcher = make(model)
        answers = await asyncio.gather(
            *(batcher.submit(item) for item in (1, 7, 13, 4)), return_exceptions=True
        )
        assert answers[0] == 2
        assert isinstance(answers[1], FendError)
        assert isinstance(answers[2], RuntimeError)
        assert answers[3] == 8
        assert await batcher.submit(5) == 10
        await batcher.stop()

    asyncio.run(scenario())


def test_cancelled_callers_are_dropped_and_the_kept_ones_are_answered() -> None:
    async def scenario() -> None:
        model = Doubler()
        batcher = make(model)
        model.open.clear()
        running = [asyncio.create_task(batcher.submit(1))]
        await settle()
        waiting = [asyncio.create_task(batcher.submit(item)) for item in (2, 3, 4)]
        await settle()
        running[0].cancel()  # while the model computes its answer
        waiting[1].cancel()  # while it waits
        await settle()
        model.open.set()
        assert await waiting[0] == 4
        assert await waiting[2] == 8
        assert model.batches == [[1], [2, 4]], "a caller that left must not be computed for"
        assert await batcher.submit(9) == 18
        await batcher.stop()

    asyncio.run(scenario())


def test_a_full_house_is_refused_with_the_measured_time_to_wait() -> None:
    async def scenario() -> None:
        model = Doubler()
        batcher = make(model, capacity=2)
        with batcher.admission(), batcher.admission():
            with pytest.raises(Overloaded) as refused, batcher.admission():
                pass
            assert refused.value.retry_after_s >= 1
        with batcher.admission():
            assert await batcher.submit(1) == 2
        await batcher.stop()

    asyncio.run(scenario())


def test_stopping_leaves_nobody_waiting() -> None:
    async def scenario() -> None:
        model = Doubler()
        batcher = make(model)
        model.open.clear()
        tasks = [asyncio.create_task(batcher.submit(1))]
        await settle()
        tasks.append(asyncio.create_task(batcher.submit(2)))
        await settle()
        await batcher.stop()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Stopping, Stopping]
        with pytest.raises(Stopping):
            await batcher.submit(3)

    asyncio.run(scenario())
