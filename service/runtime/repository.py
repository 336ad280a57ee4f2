"""The bundles of `models_dir`: verified when the service starts, each serving or refused."""

import asyncio
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import structlog
import torch
from torch import Tensor

from fend.bundle import Bundle, BundleCorrupt, BundleIncompatible, Manifest, card_of, load_bundle
from fend.errors import FendError
from service.runtime.batcher import Batcher
from service.runtime.engine import Answer, Engine, pick_device
from service.runtime.metrics import Metrics
from service.settings import Settings


class ModelUnknown(FendError):
    """No bundle has this name."""

    code: ClassVar[str] = "model_unknown"


class NoModels(FendError):
    """There is nothing to serve."""

    code: ClassVar[str] = "no_models"


@dataclass(frozen=True, eq=False)
class ServingModel:
    """A verified bundle with its engine and queue."""

    folder: Path
    bundle: Bundle
    card: str
    engine: Engine
    batcher: Batcher[Tensor, Answer]

    @property
    def manifest(self) -> Manifest:
        """Name, version, content, about."""
        return self.bundle.manifest


@dataclass(frozen=True)
class RefusedModel:
    """A bundle that cannot serve, and why."""

    folder: Path
    error: FendError


class Repository:
    """All bundles of a folder, by name. `open` and `close` it around its use."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._models: dict[str, ServingModel | RefusedModel] = {}
        self._thread: Executor | None = None

    async def open(self) -> None:
        """Load, verify and warm every bundle. A broken one is refused; the others serve.

        Raises:
            NoModels: nothing to serve, or no default model.
            DeviceUnavailable.
        """
        settings = self._settings
        folders = _bundle_folders(settings.models_dir)
        device = pick_device(settings.device)
        self._thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="inference",
            initializer=torch.set_num_threads,
            initargs=(settings.torch_threads,),
        )
        for folder in folders:
            try:
                self._models[folder.name] = await self._load(folder, device, self._thread)
            except FendError as error:
                self._refuse(folder, error)
        if not self.serving():
            reasons = [f"{name}: {model.error}" for name, model in self.refused().items()]
            raise NoModels(f"no bundle in {settings.models_dir} can be used: {'; '.join(reasons)}")
        if settings.default_model not in self._models:
            raise NoModels(
                f"the default model {settings.default_model!r} is not in {settings.models_dir}, "
                f"which has {', '.join(self._models)}; set FEND_DEFAULT_MODEL to one of them"
            )

    async def close(self) -> None:
        """Stop every queue, then the inference thread."""
        for model in self.serving().values():
            await model.batcher.stop()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.shutdown)

    def get(self, name: str | None) -> ServingModel:
        """The model called `name`, or the default one.

        Raises:
            ModelUnknown: there is none.
            FendError: with the code for which its bundle was refused.
        """
        name = name or self._settings.default_model
        model = self.entry(name)
        if isinstance(model, RefusedModel):
            raise type(model.error)(
                f"the bundle of model {name!r} was refused when the service started; "
                "the service's log says why. Repair the bundle and restart"
            )
        return model

    def entry(self, name: str) -> ServingModel | RefusedModel:
        """The model called `name`, serving or refused.

        Raises:
            ModelUnknown: there is none.
        """
        if name not in self._models:
            raise ModelUnknown(f"no model {name!r}; there are: {', '.join(self._models)}")
        return self._models[name]

    def serving(self) -> dict[str, ServingModel]:
        """The models that answer, by name."""
        return {n: m for n, m in self._models.items() if isinstance(m, ServingModel)}

    def refused(self) -> dict[str, RefusedModel]:
        """The models that do not, by name."""
        return {n: m for n, m in self._models.items() if isinstance(m, RefusedModel)}

    async def _load(self, folder: Path, device: torch.device, thread: Executor) -> ServingModel:
        try:
            bundle = await asyncio.to_thread(load_bundle, folder, device)
            card = card_of(folder)
        except (OSError, UnicodeDecodeError) as error:
            raise BundleCorrupt(f"{folder} cannot be read: {error}") from error
        manifest = bundle.manifest
        if manifest.name != folder.name:
            raise BundleIncompatible(
                f"the folder {folder} holds the model {manifest.name!r}; rename the folder to that"
            )
        engine = Engine(bundle, device, thread, self._metrics)
        try:
            await engine.warm_up(self._settings.max_batch)
        except RuntimeError as error:
            raise BundleIncompatible(
                f"{folder}: the networks do not fit together: {error}"
            ) from error
        batcher: Batcher[Tensor, Answer] = Batcher(
            engine.infer,
            max_batch=self._settings.max_batch,
            capacity=self._settings.queue_size,
            metrics=self._metrics,
        )
        batcher.start()
        content = manifest.content
        self._metrics.model_info.labels(
            manifest.name,
            manifest.version,
            content.denoiser.architecture,
            content.classifier.architecture,
        ).set(1)
        for label in content.labels:  # from 0 on, or Prometheus would miss the first answer of each
            self._metrics.predictions.labels(manifest.name, manifest.version, label)
        return ServingModel(folder, bundle, card, engine, batcher)

    def _refuse(self, folder: Path, error: FendError) -> None:
        structlog.get_logger().error(
            "bundle refused", model=folder.name, code=error.code, reason=str(error)
        )
        self._metrics.models_refused.labels(folder.name, error.code).inc()
        self._models[folder.name] = RefusedModel(folder, error)


def _bundle_folders(models_dir: Path) -> list[Path]:
    """Every folder in `models_dir` that is not hidden, sorted."""
    if not models_dir.is_dir():
        raise NoModels(f"there is no folder {models_dir} with models; set FEND_MODELS_DIR")
    folders = [
        path for path in models_dir.iterdir() if path.is_dir() and not path.name.startswith(".")
    ]
    if not folders:
        raise NoModels(f"{models_dir} holds no bundle; train one, or set FEND_MODELS_DIR")
    return sorted(folders)
