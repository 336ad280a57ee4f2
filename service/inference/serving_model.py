"""One bundle, verified and warm, with all that it needs to answer: how it comes to be."""

import asyncio
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from fend.bundles import Bundle, Manifest, card_of, load_bundle
from fend.errors import FendError, Invalid, Unavailable
from service.inference import openvino_graph
from service.inference.batcher import Batcher
from service.inference.computing import Wanted
from service.inference.engine import Answer, Engine, Question, pick_device
from service.observe.metrics import Metrics
from service.settings import Limits, Settings


@dataclass(frozen=True, eq=False)
class ServingModel:
    """A verified bundle with its engine and queue."""

    folder: Path
    bundle: Bundle
    card: str
    engine: Engine
    batcher: Batcher[Question, Answer]
    limits: Limits
    decoding: asyncio.Semaphore
    """Its places among the tasks of the decode threads, which all models share: whoever is asked
    much cannot fill the line before the others."""

    @property
    def manifest(self) -> Manifest:
        """Name, version, content, about."""
        return self.bundle.manifest


@dataclass(frozen=True)
class RefusedModel:
    """A model of which no bundle serves, and why."""

    folder: Path
    error: FendError


class ModelLoader:
    """Makes bundles into serving models, on one device and one inference thread.

    `open` and `close` it around its use.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._device = torch.device("cpu")
        self._thread: Executor | None = None

    def open(self) -> None:
        """Take the device; raises Invalid where there is none, or not the engine that is set."""
        if self._settings.engine == "openvino" and not openvino_graph.version():
            raise Invalid(
                "engine: openvino is not installed; pip install 'fend[openvino]', or leave "
                "FEND_ENGINE at auto",
                code="settings_invalid",
            )
        self._device = pick_device(self._settings.device)
        self._thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="inference",
            initializer=torch.set_num_threads,  # until it is measured for each model
            initargs=(1,),
        )

    async def close(self) -> None:
        """End the inference thread."""
        if self._thread is not None:
            await asyncio.to_thread(self._thread.shutdown)

    @property
    def thread(self) -> Executor:
        """The inference thread. Each queue gives it one batch at a time, so models take turns."""
        assert self._thread is not None, "the loader is open"
        return self._thread

    async def load(self, folder: Path, name: str) -> ServingModel:
        """Verify, load and warm the bundle in `folder` as the model `name`; its queue has started.

        Raises:
            Unavailable, AnswerNotFinite: it does not work.
        """
        settings = self._settings
        try:
            bundle = await asyncio.to_thread(load_bundle, folder, self._device)
            card = card_of(folder)
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"{folder} cannot be read: {error}", code="bundle_corrupt") from error
        if bundle.manifest.name != name:
            raise Unavailable(
                f"the folder {folder} holds the model {bundle.manifest.name!r}, not {name!r}; "
                "put it into a folder of that name",
                code="bundle_incompatible",
            )
        limits = settings.limits_of(name)
        engine = Engine(
            bundle, self._device, self.thread, self._metrics,
            Wanted(settings.engine, settings.torch_threads),
        )  # fmt: skip
        try:
            await engine.warm_up(limits.max_batch)
        except RuntimeError as error:
            raise Unavailable(
                f"{folder}: the networks do not fit together: {error}", code="bundle_incompatible"
            ) from error
        batcher: Batcher[Question, Answer] = Batcher(
            engine.infer,
            max_batch=engine.computing.max_batch,
            capacity=limits.queue_size,
            metrics=self._metrics,
        )
        batcher.start()
        # Twice the threads, so that none waits for the event loop to bring the next task.
        decoding = asyncio.Semaphore(2 * settings.decode_threads)
        return ServingModel(folder, bundle, card, engine, batcher, limits, decoding)
