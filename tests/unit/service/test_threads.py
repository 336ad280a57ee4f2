"""Threads and batches follow the measurement, not the number of cores."""

import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from service.inference import threads
from service.inference.threads import QUICK_S, best_batch, best_threads, most_threads


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`takes(seconds)`: so much of the clock that durations are measured by passes."""
    now_s = 0.0

    def wait(duration_s: float) -> None:
        nonlocal now_s
        now_s += duration_s

    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: now_s))
    return wait


@pytest.mark.parametrize(
    ("scales_to", "most", "chosen"), [(8, 8, 8), (8, 3, 2), (2, 8, 2), (1, 8, 1), (8, 1, 1)]
)
def test_threads_are_added_while_they_help(
    takes: Callable[[float], None], scales_to: int, most: int, chosen: int
) -> None:
    assert best_threads(lambda n: lambda: takes(0.04 / min(n, scales_to)), most) == chosen


def test_a_core_is_left_to_the_event_loop_where_it_has_much_to_do() -> None:
    cores = os.cpu_count() or 1
    assert 1 <= most_threads(QUICK_S / 2) <= max(1, cores - 1)
    assert most_threads(QUICK_S / 2) <= most_threads(2 * QUICK_S) <= cores


@pytest.mark.parametrize(
    ("batch_s", "chosen"),
    [
        (lambda n: 0.001 + 0.0001 * n, 64),  # a digit: much is the same for any number
        (lambda n: 0.02 * n, 8),  # a photograph: a batch of 16 would be a long wait
        (lambda n: 0.02 * n + 0.001 * n * n, 1),  # and where a cache is too small
        (lambda n: 0.02 * n * (0.7 if n <= 4 else 1.0), 4),
        (lambda n: 0.02 * n * (1.02 if n > 1 else 1.0), 1),
    ],
)
def test_a_batch_is_never_slower_than_one_by_one(
    takes: Callable[[float], None], batch_s: Callable[[int], float], chosen: int
) -> None:
    assert best_batch(lambda n: takes(batch_s(n)), (1, 2, 4, 8, 16, 32, 64)) == chosen
    assert best_batch(lambda n: takes(batch_s(n)), (1,)) == 1
