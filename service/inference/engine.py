"""One bundle on one device: batches of images to answers, on the inference thread."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass

import structlog
import torch
from torch import Tensor

from fend.bundles import Bundle
from fend.bundles.canary import canary, check_classes
from fend.errors import FendError, Invalid
from service.inference.computing import Computing, Wanted, eager, fastest
from service.inference.cuda_graphs import buckets
from service.inference.frozen_graph import Outputs, Served
from service.observe.metrics import Metrics

NOT_FINITE = "the model has no finite answer to this image; the model is at fault"


class AnswerNotFinite(FendError):
    """The model computed NaN or infinity; that never leaves as an answer."""

    code = "answer_not_finite"


@dataclass(frozen=True, eq=False)
class Question:
    """An image for a model."""

    image: Tensor
    """float32 (C,H,W) in [0, 1]."""
    compare: bool = True
    """Also answer without the denoiser, which takes another pass of the classifier."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of one image; on the CPU."""

    denoised: Tensor
    """(C,H,W) in [0, 1]."""
    probabilities: list[float]
    """Of each class, for the denoised image: the answer."""
    undefended_probabilities: list[float] | None = None
    """Of each class, for the image as it came; None where that is not compared."""
    suspicion: float | None = None
    """How far the two disagree, in [0, 1]; None in the same way."""


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
        wanted: Wanted,
    ) -> None:
        self._bundle = bundle
        self._wanted = wanted
        self._canary = canary(bundle.manifest.content.input)
        self._device = device
        self._served = {
            compare: Served(bundle.defence, compare=compare).eval() for compare in (True, False)
        }
        self._forwards = {how: eager(served, device) for how, served in self._served.items()}
        self._thread = thread
        self._compute = metrics.inference_compute.labels("infer")
        self.computing = Computing()
        """How; chosen when it is warmed up."""

    async def infer(self, questions: Sequence[Question]) -> list[Answer | AnswerNotFinite]:
        """One outcome for each question, in order."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._infer, questions)

    async def check(self) -> None:
        """A forward pass of a known image.

        Raises:
            AnswerNotFinite, Unavailable (`bundle_incompatible`): the model does not work.
        """
        [outcome] = await self.infer([Question(self._canary)])
        if isinstance(outcome, AnswerNotFinite):
            raise outcome
        check_classes(len(outcome.probabilities), self._bundle.labels)

    async def warm_up(self, most_images: int) -> None:
        """Choose how the model is computed, with batches of `most_images` at most, and make the
        first real batches as fast as the later ones; checks the model as `check`."""
        await self.check()
        loop = asyncio.get_running_loop()
        if self._device.type == "cuda":  # recorded where they are replayed
            await loop.run_in_executor(self._thread, self._choose, most_images)
        else:  # beside the inference thread, on which other models answer meanwhile
            with ThreadPoolExecutor(1, thread_name_prefix="warm-up") as own:
                await loop.run_in_executor(own, self._choose, most_images)
        for size in buckets(self.computing.max_batch):
            await self.infer([Question(self._canary, compare=False)] * size)

    def _choose(self, most_images: int) -> None:
        self.computing, self._forwards = fastest(
            self._served, self._canary, self._device, self._wanted, most_images
        )
        structlog.get_logger().info(
            "model is warm", model=self._bundle.manifest.name, **asdict(self.computing)
        )

    @torch.inference_mode()
    def _infer(self, questions: Sequence[Question]) -> list[Answer | AnswerNotFinite]:
        started_s = time.perf_counter()
        outcomes: dict[int, Answer | AnswerNotFinite] = {}
        for compare in (True, False):
            places = [i for i, asked in enumerate(questions) if asked.compare == compare]
            if places:
                images = torch.stack([questions[place].image for place in places])
                outcomes.update(zip(places, _answers(self._forwards[compare](images)), strict=True))
        self._compute.observe(time.perf_counter() - started_s)
        return [outcomes[place] for place in range(len(questions))]


def _answers(outputs: Outputs) -> Iterator[Answer | AnswerNotFinite]:
    """Of each image, in Python's numbers: the event loop has better things to do."""
    denoised, probabilities, finite, *compared = (part.cpu() for part in outputs.tensors)
    rows = zip(denoised, probabilities.tolist(), *(part.tolist() for part in compared), strict=True)
    for row, ok in zip(rows, finite.tolist(), strict=True):
        yield Answer(*row) if ok else AnswerNotFinite(NOT_FINITE)
