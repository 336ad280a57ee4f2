"""The number of threads follows the measurement, not the number of cores."""

import os
import time
from collections.abc import Iterator

import pytest
import torch

from service.inference.threads import best_threads, most_threads


@pytest.fixture(autouse=True)
def _threads_as_they_were() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("scales_to", "most", "chosen"), [(8, 8, 8), (8, 3, 2), (2, 8, 2), (1, 8, 1), (8, 1, 1)]
)
def test_threads_are_added_while_they_help(scales_to: int, most: int, chosen: int) -> None:
    def work() -> None:
        time.sleep(0.04 / min(torch.get_num_threads(), scales_to))

    assert best_threads(work, most) == chosen
    assert torch.get_num_threads() == chosen


def test_a_core_is_left_to_the_event_loop() -> None:
    assert 1 <= most_threads() <= max(1, (os.cpu_count() or 1) - 1)
