"""How many threads an operation of a model is spread over, chosen by measurement.

More are not always better: small networks spend more on waiting for each other than they gain, and
the event loop wants a core, too.
"""

import os
import statistics
import time
from collections.abc import Callable

import torch

GAIN = 1.25
"""How much faster twice the threads must be, or they are left to others."""
RUNS = 5


def most_threads() -> int:
    """As many as this process may use: the cores, less one for the event loop."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) - 1)


def best_threads(run: Callable[[], object], most: int) -> int:
    """The number, at most `most`, with which `run` is fast; leaves this thread with that number."""
    best, threads = 1, 2
    fastest_s = _median_s(run, 1) if most > 1 else 0.0
    while threads <= most:
        duration_s = _median_s(run, threads)
        if duration_s * GAIN > fastest_s:
            break
        best, fastest_s, threads = threads, duration_s, 2 * threads
    torch.set_num_threads(best)
    return best


def _median_s(run: Callable[[], object], threads: int) -> float:
    torch.set_num_threads(threads)
    run()
    durations_s = []
    for _ in range(RUNS):
        started_s = time.perf_counter()
        run()
        durations_s.append(time.perf_counter() - started_s)
    return statistics.median(durations_s)
