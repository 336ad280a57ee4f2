"""Over how many threads an operation of a model is spread, and how many images go through it at
once: both by measurement.

More are not always better: small networks spend more on waiting for each other than they gain, the
event loop wants a core, too, and large activations no longer fit into a cache.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

GAIN = 1.25
"""How much faster twice the threads must be, or they are left to others."""
SLOWER = 1.05
"""How much slower an image of a batch may be than in the best one."""
QUICK_S = 0.005
"""Time for one image of models whose callers keep the event loop busy: it is left a core."""
LONGEST_BATCH_S = 0.25
"""Whoever comes meanwhile waits for it."""
RUNS, MEASURED_S = 5, 0.5
"""Runs of each measurement, and the time after which two are enough."""


def most_threads(image_s: float) -> int:
    """As many as a model that takes `image_s` for one image may use: the cores, where it is quick
    less one for the event loop."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) - (image_s < QUICK_S))


def best_threads(spread: Callable[[int], Callable[[], object]], most: int) -> int:
    """The number, at most `most`, with which the work is fast; `spread` gives the work over a
    number of threads."""
    best, threads = 1, 2
    fastest_s = median_s(spread(1)) if most > 1 else 0.0
    while threads <= most:
        duration_s = median_s(spread(threads))
        if duration_s * GAIN > fastest_s:
            break
        best, fastest_s, threads = threads, duration_s, 2 * threads
    return best


def best_batch(run: Callable[[int], object], sizes: Sequence[int]) -> int:
    """The largest of `sizes` (ascending, from 1) at which an image is about as quick as in any
    other and no slower than alone; `run` computes so many images."""
    image_s: dict[int, float] = {}
    for size in sizes:
        batch_s = median_s(partial(run, size))
        if size > 1 and batch_s > LONGEST_BATCH_S:
            break
        image_s[size] = batch_s / size
        if image_s[size] > GAIN * min(image_s.values()):
            break
    enough_s = min(image_s[1], SLOWER * min(image_s.values()))
    return max(size for size, each_s in image_s.items() if each_s <= enough_s)


def median_s(run: Callable[[], object]) -> float:
    """The time that `run` takes when it has run before."""
    run()
    durations_s: list[float] = []
    while len(durations_s) < 2 or (len(durations_s) < RUNS and sum(durations_s) < MEASURED_S):
        started_s = time.perf_counter()
        run()
        durations_s.append(time.perf_counter() - started_s)
    return statistics.median(durations_s)
