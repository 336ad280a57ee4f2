"""Certificates for single answers, on a thread of their own that steps behind serving.

A certificate costs a thousand passes of the model and more. So few are taken on at a time, one is
worked on at a time, and it is given up when its caller leaves or runs out of patience.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from fend.bundles import Bundle
from fend.client.answers import Certified
from fend.guarantees.smoothing import certify_image, new_seed
from service.inference.batcher import DeadlineExceeded, overloaded
from service.observe.metrics import Metrics
from service.settings import Priority, Settings

NICENESS = 10
"""A tenth of a busy core. Worker processes take less, but this thread shares Python's lock: if it
got no turn while it holds that, the service would stand still."""


class _GivenUp(Exception):
    """Nobody wants the certificate any more."""


class Certifier:
    """Certifies one image at a time; used from one event loop."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._samples = settings.certify_samples
        self._capacity = settings.certify_queue
        self._metrics = metrics
        self._compute = metrics.inference_compute.labels("certify")
        self._admitted = 0
        self._last_s = 1.0
        """What the last certificate took."""
        self._thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="certify",
            initializer=_prepare,
            initargs=(settings.worker_priority, settings.torch_threads or 1),
        )

    async def close(self) -> None:
        """Finish what is worked on, and end the thread."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    @contextmanager
    def admission(self) -> Iterator[None]:
        """A place among the certificates in flight.

        Raises:
            Busy: there is none.
        """
        if self._admitted >= self._capacity:
            raise overloaded(self._last_s)
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def certify(self, bundle: Bundle, pixels: Tensor, deadline_s: float) -> Certified:
        """The certificate for one image (C,H,W), with noise from a new seed.

        `deadline_s` is on the clock of `time.monotonic`. Cancelling gives the work up.

        Raises:
            Invalid (`not_certifiable`): the bundle has no sigma.
            DeadlineExceeded.
        """
        given_up = threading.Event()
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(deadline_s - started_s):
                loop = asyncio.get_running_loop()
                certified = await loop.run_in_executor(
                    self._thread, self._certify, bundle, pixels, given_up
                )
        except TimeoutError as error:
            raise DeadlineExceeded(deadline_s - started_s, "certificate") from error
        finally:
            given_up.set()
        outcome = "abstained" if certified.abstained else "certified"
        self._metrics.certificates.labels(bundle.manifest.name, outcome).inc()
        return certified

    def _certify(self, bundle: Bundle, pixels: Tensor, given_up: threading.Event) -> Certified:
        def check() -> None:
            if given_up.is_set():
                raise _GivenUp

        started_s = time.perf_counter()
        device = next(bundle.defence.parameters()).device
        certified = certify_image(
            bundle, pixels.to(device), new_seed(), samples=self._samples, on_batch=check
        )
        self._last_s = time.perf_counter() - started_s
        self._compute.observe(self._last_s)
        return certified


def _prepare(priority: Priority, torch_threads: int) -> None:
    """In the thread itself, before its first work."""
    torch.set_num_threads(torch_threads)
    if priority == "low" and sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it; then the queue is all that limits it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
