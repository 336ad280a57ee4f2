"""What every route that takes a picture does: read, admit, decode, answer, in time."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request

from fend.images import DecodeLimits
from service.api.uploads import Picture, Upload, read_picture, read_upload, while_connected
from service.runtime.batcher import DeadlineExceeded
from service.runtime.engine import Answer
from service.runtime.metrics import Metrics
from service.runtime.repository import Repository, ServingModel
from service.runtime.traces import Traces
from service.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Answered:
    """A picture, the model that answered, and its answer."""

    model: ServingModel
    picture: Picture
    answer: Answer


class Answering:
    """Takes pictures through the decode threads and the batcher of a model."""

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        decoders: Executor,
        metrics: Metrics,
        traces: Traces,
    ) -> None:
        self._repository = repository
        self._decoders = decoders
        self._metrics = metrics
        self._traces = traces
        self._timeout_s = settings.request_timeout_s
        self._limits = DecodeLimits(settings.max_body_bytes, settings.max_pixels)

    async def answer(self, request: Request, model_name: str | None) -> Answered:
        """The answer to the picture in the body of `request`.

        Raises:
            ModelUnknown, BundleError: before the body is read.
            UnsupportedMediaType, FileMissing, ImageError, TensorInvalid: the picture's fault.
            Overloaded, DeadlineExceeded, ClientGone, AnswerNotFinite.
        """
        model = self._repository.get(model_name)
        upload = await read_upload(request)
        with model.batcher.admission():
            return await while_connected(request, self._answer(model, upload))

    async def _answer(self, model: ServingModel, upload: Upload) -> Answered:
        try:
            async with asyncio.timeout(self._timeout_s):
                spec = model.manifest.content.input
                with self._traces.span("decode"):
                    picture = await self.off_loop(
                        "decode", lambda: read_picture(upload, spec, self._limits)
                    )
                with self._traces.span("infer"):  # the wait in the queue included
                    answer = await model.batcher.submit(picture.pixels)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"no answer within {self._timeout_s:g} s; the work is dropped, retry later"
            ) from error
        content = model.manifest.content
        label = content.labels[int(answer.probabilities.argmax())]
        self._metrics.predictions.labels(model.manifest.name, model.manifest.version, label).inc()
        flagged = str(answer.suspicion > content.suspicion.threshold).lower()
        self._metrics.suspicion_score.labels(model.manifest.name, flagged).observe(answer.suspicion)
        return Answered(model, picture, answer)

    async def off_loop(self, stage: str, work: Callable[[], T]) -> T:
        """Run `work` in a decode thread, and measure it as `stage`."""

        def timed() -> T:
            started_s = time.perf_counter()
            try:
                return work()
            finally:
                duration_s = time.perf_counter() - started_s
                self._metrics.inference_compute.labels(stage).observe(duration_s)

        return await asyncio.get_running_loop().run_in_executor(self._decoders, timed)
