"""One bundle on one device: batches of images to answers, on the inference thread."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import structlog
import torch
from torch import Tensor

from fend.bundles import Bundle
from fend.bundles.canary import canary, check_classes
from fend.errors import FendError, Invalid
from service.inference.cuda_graphs import Captured
from service.inference.frozen_graph import Forward, GraphDisagrees, Served, frozen
from service.inference.threads import best_threads
from service.observe.metrics import Metrics

TYPICAL_BATCH = 16
"""With which threads are compared."""

NOT_FINITE = "the model has no finite answer to this image; the model is at fault"


class AnswerNotFinite(FendError):
    """The model computed NaN or infinity; that never leaves as an answer."""

    code = "answer_not_finite"


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of one image; on the CPU."""

    denoised: Tensor
    """(C,H,W) in [0, 1]."""
    probabilities: list[float]
    """Of each class, for the denoised image: the answer."""
    undefended_probabilities: list[float]
    """Of each class, for the image as it came."""
    suspicion: float
    """How far the two disagree, in [0, 1]."""


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the first GPU, or the CPU where there is none.

    Raises:
        Invalid: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise Invalid(
            f"device {name!r} cannot be used: {reason}", code="device_unavailable"
        ) from error
    return device


class Engine:
    """Answers batches with one bundle. `thread` runs one batch at a time."""

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device,
        thread: Executor,
        metrics: Metrics,
        *,
        threads: int | None = 1,
        most_threads: int = 1,
    ) -> None:
        """`threads` is how many one operation is spread over on a CPU; None: as many as are best,
        by measurement when it is warmed up, and `most_threads` at most."""
        self._bundle = bundle
        self._threads = threads or 1
        self._most_threads = most_threads if threads is None else 0
        self._canary = canary(bundle.manifest.content.input)
        self._device = device
        self._served = Served(bundle.defence).eval()
        self._forward: Forward = lambda images: self._served(images.to(device))
        self._thread = thread
        self._compute = metrics.inference_compute.labels("infer")

    async def infer(self, images: Sequence[Tensor]) -> list[Answer | AnswerNotFinite]:
        """One outcome for each image, float32 (C,H,W) in [0, 1], in order."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._infer, images)

    async def check(self) -> None:
        """A forward pass of a known image.

        Raises:
            AnswerNotFinite, Unavailable (`bundle_incompatible`): the model does not work.
        """
        [outcome] = await self.infer([self._canary])
        if isinstance(outcome, AnswerNotFinite):
            raise outcome
        check_classes(len(outcome.probabilities), self._bundle.labels)

    async def warm_up(self, batch_size: int) -> None:
        """Make the first real batches as fast as the later ones; checks the model as `check`."""
        await self.check()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._speed_up, batch_size)
        for size in sorted({1, 2, 4, 8, 16, 32, batch_size}):
            if size <= batch_size:
                await self.infer([self._canary] * size)

    def _speed_up(self, batch_size: int) -> None:
        """One call for a whole batch, in place of an operation at a time."""
        try:
            if self._device.type == "cpu":
                self._forward = frozen(self._served, self._canary)
            elif self._device.type == "cuda":
                self._forward = Captured(self._served, self._canary, self._device, batch_size)
        except GraphDisagrees as error:
            structlog.get_logger().warning(
                "no graph of the model; it is served in eager mode, which is slower",
                model=self._bundle.manifest.name, reason=str(error),
            )  # fmt: skip
        if self._device.type == "cpu" and self._most_threads:
            images = torch.stack([self._canary] * min(TYPICAL_BATCH, batch_size))
            with torch.inference_mode():
                self._threads = best_threads(lambda: self._forward(images), self._most_threads)
            structlog.get_logger().info(
                "threads chosen", model=self._bundle.manifest.name, threads=self._threads
            )

    @torch.inference_mode()
    def _infer(self, images: Sequence[Tensor]) -> list[Answer | AnswerNotFinite]:
        started_s = time.perf_counter()
        if torch.get_num_threads() != self._threads:  # models share the thread
            torch.set_num_threads(self._threads)
        batch = self._forward(torch.stack(list(images)))
        denoised, probabilities, undefended, scores, finite = (part.cpu() for part in batch)
        # To Python's numbers here, once for the batch: the event loop has better things to do.
        rows = zip(
            denoised, probabilities.tolist(), undefended.tolist(), scores.tolist(), strict=True
        )
        outcomes = [
            Answer(*row) if ok else AnswerNotFinite(NOT_FINITE)
            for row, ok in zip(rows, finite.tolist(), strict=True)
        ]
        self._compute.observe(time.perf_counter() - started_s)
        return outcomes
