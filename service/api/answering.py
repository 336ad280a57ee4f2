"""What every route that takes a picture does: read, admit, decode, answer, in time."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

from fastapi import Request

from fend.errors import FendError, Invalid
from fend.images import DecodeLimits
from service.api.uploads import (
    Picture,
    PictureReader,
    Upload,
    read_picture,
    read_upload,
    read_uploads,
    while_connected,
)
from service.inference.batcher import DeadlineExceeded
from service.inference.engine import Answer, Question
from service.inference.repository import Repository
from service.inference.serving_model import ServingModel
from service.observe.metrics import Metrics
from service.observe.traces import Traces
from service.settings import Settings

T = TypeVar("T")

SAMPLED = 0.05
"""Share of the answers that are compared with that without the denoiser, where a sample is."""


@dataclass(frozen=True, eq=False)
class Answered:
    """A picture, the model that answered, and its answer."""

    model: ServingModel
    picture: Picture
    answer: Answer
    timing: Mapping[str, float]
    """Seconds of each stage, by its name."""
    deadline_s: float
    """When the caller's patience ends, on the clock of `time.monotonic`."""


def server_timing(timings: Sequence[Mapping[str, float]]) -> str:
    """The value of the header Server-Timing: milliseconds of each stage, the slowest image's."""
    names = timings[0] if timings else ()
    slowest_ms = {name: 1000 * max(timing[name] for timing in timings) for name in names}
    return ", ".join(f"{name};dur={duration_ms:.2f}" for name, duration_ms in slowest_ms.items())


class Answering:
    """Takes pictures through the decode threads and the batcher of a model."""

    def __init__(
        self, settings: Settings, repository: Repository, metrics: Metrics, traces: Traces
    ) -> None:
        self._repository = repository
        self._decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        # To look a label up takes longer than to count.
        self._predictions = cache(metrics.predictions.labels)
        self._suspicion = cache(metrics.suspicion_score.labels)
        self._compute = cache(metrics.inference_compute.labels)
        self._traces = traces
        self._compare = settings.compare
        self._max_request_images = settings.max_request_images
        self.limits = DecodeLimits(settings.max_body_bytes, settings.max_pixels)
        """Largest pictures that are decoded."""

    def close(self) -> None:
        """End the decode threads."""
        self._decoders.shutdown()

    async def answer(
        self, request: Request, model_name: str | None, compare: bool | None = None
    ) -> Answered:
        """The answer to the picture in the body of `request`; `compare` as in `take_through`.

        Raises:
            NotFound, RemoteError, Invalid: before the body is read.
            Unsupported, TooLarge, Invalid: the picture's fault.
            Busy, DeadlineExceeded, ClientGone, AnswerNotFinite.
        """
        timeout_s = self.timeout_s(request, self._repository.get(model_name))
        upload = await read_upload(request)
        model = self._repository.get(model_name)  # a swap may have come with the body
        deadline_s = time.monotonic() + timeout_s
        with model.batcher.admission(1, deadline_s):
            return await while_connected(request, self._take(model, upload, deadline_s, compare))

    async def answer_all(
        self, request: Request, model_name: str | None, compare: bool | None = None
    ) -> list[Answered | FendError]:
        """The answers to all pictures in the form of `request`, in order; each is its solo answer.

        They are admitted together, so a full house refuses them as it refuses one.

        Raises:
            NotFound, RemoteError, Invalid: before the body is read.
            Unsupported, TooLarge, Busy, ClientGone.
        """
        model = self._repository.get(model_name)
        timeout_s = self.timeout_s(request, model)
        uploads = await read_uploads(request, self.most_images(model))
        model = self._repository.get(model_name)  # a swap may have come with the body
        deadline_s = time.monotonic() + timeout_s

        async def one(upload: Upload) -> Answered | FendError:
            try:
                return await self._take(model, upload, deadline_s, compare)
            except FendError as error:
                return error

        with model.batcher.admission(len(uploads), deadline_s):
            return await while_connected(request, _all(one(upload) for upload in uploads))

    def most_images(self, model: ServingModel) -> int:
        """How many images one request may hold."""
        return min(self._max_request_images, model.limits.queue_size)

    def timeout_s(self, request: Request, model: ServingModel) -> float:
        """The caller's patience from X-Request-Timeout, at most the model's own.

        Raises:
            Invalid: the header is no number of seconds.
        """
        given = request.headers.get("x-request-timeout")
        if given is None:
            return model.limits.request_timeout_s
        try:
            wanted_s = float(given)
        except ValueError:
            wanted_s = math.nan
        if not wanted_s > 0:
            raise Invalid(
                f"X-Request-Timeout is {given[:40]!r}; send seconds above 0, such as 2.5",
                code="timeout_invalid",
            )
        return min(wanted_s, model.limits.request_timeout_s)

    async def _take(
        self, model: ServingModel, upload: Upload, deadline_s: float, compare: bool | None
    ) -> Answered:
        return await self.take_through(model, partial(read_picture, upload), deadline_s, compare)

    async def take_through(
        self,
        model: ServingModel,
        read: PictureReader,
        deadline_s: float,
        compare: bool | None = None,
    ) -> Answered:
        """Read and answer one picture that has been admitted. `compare`: also without the
        denoiser; None: as the setting says.

        Raises:
            Invalid, TooLarge, Unsupported, DeadlineExceeded, AnswerNotFinite.
        """
        started_s = time.monotonic()
        spec = model.manifest.content.input
        with self._traces.span("decode"):
            try:
                async with asyncio.timeout(deadline_s - started_s):
                    picture = await self.run_in_decoder(
                        model, "decode", lambda: read(spec, self.limits)
                    )
            except TimeoutError as error:
                raise DeadlineExceeded(deadline_s - started_s) from error
        decoded_s = time.monotonic()
        with self._traces.span("infer"):  # the wait in the queue included
            served = await model.batcher.submit(
                Question(picture.pixels, self._compares(compare)), deadline_s
            )
        answer = served.result
        self._count(model, answer)
        timing = {
            "decode": decoded_s - started_s,
            "queue": served.queue_s,
            "compute": served.compute_s,
        }
        return Answered(model, picture, answer, timing, deadline_s)

    def _compares(self, asked: bool | None) -> bool:
        if asked is not None:
            return asked
        return self._compare == "always" or (
            self._compare == "sampled" and random.random() < SAMPLED
        )

    def _count(self, model: ServingModel, answer: Answer) -> None:
        name, version, content = model.manifest.name, model.manifest.version, model.manifest.content
        label = content.labels[
            max(range(len(content.labels)), key=answer.probabilities.__getitem__)
        ]
        self._predictions(name, version, label).inc()
        if answer.suspicion is None:
            return
        flagged = "true" if answer.suspicion > content.suspicion.threshold else "false"
        self._suspicion(name, flagged).observe(answer.suspicion)

    async def run_in_decoder(self, model: ServingModel, stage: str, work: Callable[[], T]) -> T:
        """Run `work` for `model` in a decode thread when it is its turn; measured as `stage`."""
        timed = partial(self._timed, stage, work)
        async with model.decoding:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, timed)

    def _timed(self, stage: str, work: Callable[[], T]) -> T:
        started_s = time.perf_counter()
        try:
            return work()
        finally:
            duration_s = time.perf_counter() - started_s
            self._compute(stage).observe(duration_s)


async def _all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results in order; cancelling cancels every one."""
    return await asyncio.gather(*works)
