"""The batcher: together where they wait together, and never at the cost of a batch-mate."""

import asyncio
import math
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fend.errors import Busy, FendError
from service.inference.batcher import Batcher, DeadlineExceeded, Stopping
from service.observe.metrics import Metrics


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


async def result(batcher: Batcher[int, int], item: int, deadline_s: float = math.inf) -> int:
    return (await batcher.submit(item, deadline_s)).result


async def settle() -> None:
    """Let everything that can run, run."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_one_alone_does_not_wait_and_those_who_wait_go_together() -> None:
    async def scenario() -> None:
        model = Doubler()
        batcher = make(model)
        model.open.clear()
        first = asyncio.create_task(result(batcher, 1))
        await settle()
        assert model.batches == [[1]]
        rest = [asyncio.create_task(result(batcher, item)) for item in range(20, 30)]
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
            *(result(batcher, item) for item in (1, 7, 13, 4)), return_exceptions=True
        )
        assert answers[0] == 2
        assert isinstance(answers[1], FendError)
        assert isinstance(answers[2], RuntimeError)
        assert answers[3] == 8
        assert await result(batcher, 5) == 10
        await batcher.stop()

    asyncio.run(scenario())


def test_cancelled_callers_are_dropped_and_the_kept_ones_are_answered() -> None:
    async def scenario() -> None:
        model = Doubler()
        batcher = make(model)
        model.open.clear()
        running = [asyncio.create_task(result(batcher, 1))]
        await settle()
        waiting = [asyncio.create_task(result(batcher, item)) for item in (2, 3, 4)]
        await settle()
        running[0].cancel()  # while the model computes its answer
        waiting[1].cancel()  # while it waits
        await settle()
        model.open.set()
        assert await waiting[0] == 4
        assert await waiting[2] == 8
        assert model.batches == [[1], [2, 4]], "a caller that left must not be computed for"
        assert await result(batcher, 9) == 18
        await batcher.stop()

    asyncio.run(scenario())


def test_a_full_house_is_refused_with_the_measured_time_to_wait() -> None:
    async def scenario() -> None:
        model = Doubler()
        batcher = make(model, capacity=2)
        with batcher.admission(), batcher.admission():
            with pytest.raises(Busy) as refused, batcher.admission():
                pass
            assert refused.value.retry_after_s >= 1
        with batcher.admission():
            assert await result(batcher, 1) == 2
        await batcher.stop()

    asyncio.run(scenario())


def test_stopping_leaves_nobody_waiting() -> None:
    async def scenario() -> None:
        model = Doubler()
        batcher = make(model)
        model.open.clear()
        tasks = [asyncio.create_task(result(batcher, 1))]
        await settle()
        tasks.append(asyncio.create_task(result(batcher, 2)))
        await settle()
        await batcher.stop()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Stopping, Stopping]
        with pytest.raises(Stopping):
            await result(batcher, 3)

    asyncio.run(scenario())


def test_stopping_while_a_broken_batch_is_run_again_leaves_nobody_waiting() -> None:
    async def scenario() -> None:
        async def infer(items: Sequence[int]) -> list[int | FendError]:
            if len(items) > 1:
                raise RuntimeError("the whole batch is broken")
            await asyncio.sleep(3600)  # the first of those that are run again never ends
            return []

        batcher = Batcher[int, int](infer, max_batch=8, capacity=100, metrics=Metrics())
        waiting = [asyncio.create_task(result(batcher, item)) for item in (1, 2, 3)]
        batcher.start()
        await settle()
        await batcher.stop()
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
        assert [type(outcome) for outcome in outcomes] == [Stopping] * 3

    asyncio.run(scenario())


def test_whose_time_is_up_is_dropped_and_not_computed_for() -> None:
    async def scenario() -> None:
        model = Doubler()
        batcher = make(model)
        model.open.clear()
        running = asyncio.create_task(result(batcher, 1))
        await settle()
        hasty = asyncio.create_task(result(batcher, 2, time.monotonic() - 1))
        patient = asyncio.create_task(result(batcher, 3, time.monotonic() + 60))
        await settle()
        model.open.set()
        assert await running == 2
        assert await patient == 6
        with pytest.raises(DeadlineExceeded):
            await hasty
        assert model.batches == [[1], [3]]
        await batcher.stop()

    asyncio.run(scenario())


def test_what_cannot_be_in_time_is_refused_at_the_door() -> None:
    async def scenario() -> None:
        model = Doubler()
        batcher = make(model, max_batch=1)
        model.open.clear()
        slow = asyncio.create_task(result(batcher, 1))
        await asyncio.sleep(0.2)  # so long takes a batch, as far as the batcher can know
        model.open.set()
        await slow
        with batcher.admission(5):
            with pytest.raises(Busy) as refused, batcher.admission(1, time.monotonic() + 0.1):
                pass
            assert refused.value.retry_after_s >= 1
            with batcher.admission(1, time.monotonic() + 600):
                pass
        # With nothing else in the works the same deadline is tried: the model may be faster now.
        with batcher.admission(1, time.monotonic() + 0.1):
            assert await result(batcher, 2) == 4
        await batcher.stop()

    asyncio.run(scenario())


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(20, 10_000), st.integers(0, 5)), min_size=1, max_size=60),
    st.integers(1, 9),
)
def test_any_interleaving_and_batch_size_gives_everyone_their_own_answer(callers, max_batch):
    async def scenario() -> None:
        batcher = make(Doubler(), max_batch=max_batch)

        async def ask(item: int, turns: int) -> int:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await result(batcher, item)

        answers = await asyncio.gather(*(ask(*caller) for caller in callers))
        assert answers == [2 * item for item, _ in callers]
        await batcher.stop()

    asyncio.run(scenario())
