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
from service.runtime.versions import Choice, Choices, VersionUnknown, find_version
from service.settings import Settings


class ModelUnknown(FendError):
    """No bundle has this name."""

    code: ClassVar[str] = "model_unknown"


class ModelUnloaded(FendError):
    """An administrator has unloaded the model."""

    code: ClassVar[str] = "model_unloaded"


class VersionRefused(FendError):
    """The version did not pass its checks; what served before still does."""

    code: ClassVar[str] = "version_refused"


class NoPreviousVersion(FendError):
    """There is nothing to roll back to."""

    code: ClassVar[str] = "no_previous_version"


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
        self._device = torch.device("cpu")
        self._choices = Choices(settings.state_dir)
        self._changing = asyncio.Lock()
        self.missing: dict[str, str] = {}
        """The versions that were to serve and were not on disk at the start, by model."""

    async def open(self) -> None:
        """Load, verify and warm every bundle. A broken one is refused; the others serve.

        Raises:
            NoModels: nothing to serve, or no default model.
            DeviceUnavailable.
        """
        settings = self._settings
        folders = _bundle_folders(settings.models_dir)
        self._device = pick_device(settings.device)
        choices = await asyncio.to_thread(self._choices.read)
        self._thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="inference",
            initializer=torch.set_num_threads,
            initargs=(settings.torch_threads,),
        )
        for folder in folders:
            await self._open_one(folder, choices.get(folder.name))
        unloaded = any(isinstance(m.error, ModelUnloaded) for m in self.refused().values())
        if not self.serving() and not unloaded:
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
        if isinstance(model, RefusedModel) and isinstance(model.error, ModelUnloaded):
            raise ModelUnloaded(str(model.error))
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

    def folder_of(self, name: str, version: str) -> Path:
        """Where this version of a model is on disk; reads manifests.

        Raises:
            ModelUnknown, VersionUnknown.
        """
        self.entry(name)
        return find_version(self._settings.models_dir / name, version)

    async def activate(self, name: str, version: str) -> ServingModel:
        """Load, verify and warm a version, then let it take the traffic; returns when the one
        before has finished what it had admitted.

        Raises:
            ModelUnknown, VersionUnknown.
            VersionRefused: it does not work; nothing has changed.
            StateUnavailable: the decision cannot be kept; nothing has changed.
        """
        async with self._changing:
            return await self._activate(name, version)

    async def rollback(self, name: str) -> ServingModel:
        """Activate the version that served before.

        Raises:
            NoPreviousVersion, and what `activate` does.
        """
        async with self._changing:
            self.entry(name)
            choice = (await asyncio.to_thread(self._choices.read)).get(name)
            if choice is None or choice.previous is None:
                raise NoPreviousVersion(f"no other version of {name!r} has served before")
            return await self._activate(name, choice.previous)

    async def unload(self, name: str) -> None:
        """Stop serving a model, also after a restart, until a version of it is activated.

        Raises:
            ModelUnknown, StateUnavailable.
        """
        async with self._changing:
            old = self.entry(name)
            version = old.manifest.version if isinstance(old, ServingModel) else None
            if version is None:
                known = (await asyncio.to_thread(self._choices.read)).get(name)
                version = None if known is None else known.previous
            choice = Choice(active=None, previous=version)
            await asyncio.to_thread(self._choices.write, name, choice)
            self._models[name] = self._unloaded(self._settings.models_dir / name)
            await self._retire(old)
            self._metrics.model_swaps.labels(name, "unloaded").inc()

    async def _activate(self, name: str, version: str) -> ServingModel:
        old = self.entry(name)
        if isinstance(old, ServingModel) and old.manifest.version == version:
            return old
        folder = await asyncio.to_thread(self.folder_of, name, version)
        try:
            new = await self._load(folder, name)
        except FendError as error:
            self._metrics.model_swaps.labels(name, "refused").inc()
            raise VersionRefused(
                f"version {version} of {name!r} was refused ({error.code}); nothing has changed. "
                "`fend bundle verify` says more"
            ) from error
        if isinstance(old, ServingModel):
            previous: str | None = old.manifest.version
        else:
            known = (await asyncio.to_thread(self._choices.read)).get(name)
            previous = None if known is None else known.previous
        try:
            choice = Choice(active=new.manifest.version, previous=previous)
            await asyncio.to_thread(self._choices.write, name, choice)
        except FendError:
            self._metrics.model_swaps.labels(name, "refused").inc()
            await new.batcher.stop()
            raise
        self._models[name] = new
        self.missing.pop(name, None)
        self._announce(new)
        await self._retire(old)
        self._metrics.model_swaps.labels(name, "activated").inc()
        structlog.get_logger().info("version activated", model=name, version=version)
        return new

    async def _retire(self, old: "ServingModel | RefusedModel") -> None:
        """Let a model that takes nothing new finish, and stop it."""
        if isinstance(old, RefusedModel):
            return
        new = self._models[old.manifest.name]
        if not isinstance(new, ServingModel) or _info(new) != _info(old):
            self._metrics.model_info.remove(*_info(old))
        await old.batcher.drained()
        await old.batcher.stop()

    async def _open_one(self, folder: Path, choice: Choice | None) -> None:
        """What was decided for a model; where that version is gone, what its folder holds."""
        name = folder.name
        if choice is not None and choice.active is None:
            self._models[name] = self._unloaded(folder)
            return
        chosen = folder
        if choice is not None and choice.active is not None:
            try:
                chosen = await asyncio.to_thread(find_version, folder, choice.active)
            except VersionUnknown as error:
                self.missing[name] = choice.active
                structlog.get_logger().error(
                    "active version is missing; serving what is in the model's folder itself",
                    model=name, version=choice.active,
                )  # fmt: skip
                self._metrics.models_refused.labels(name, error.code).inc()
        try:
            model = await self._load(chosen, name)
        except FendError as error:
            self._refuse(folder, error)
            return
        self._models[name] = model
        self._announce(model)

    @staticmethod
    def _unloaded(folder: Path) -> RefusedModel:
        error = ModelUnloaded(f"the model {folder.name!r} has been unloaded")
        return RefusedModel(folder, error)

    async def _load(self, folder: Path, name: str) -> ServingModel:
        assert self._thread is not None, "the repository is open"
        try:
            bundle = await asyncio.to_thread(load_bundle, folder, self._device)
            card = card_of(folder)
        except (OSError, UnicodeDecodeError) as error:
            raise BundleCorrupt(f"{folder} cannot be read: {error}") from error
        manifest = bundle.manifest
        if manifest.name != name:
            raise BundleIncompatible(
                f"the folder {folder} holds the model {manifest.name!r}, not {name!r}; "
                "put it into a folder of that name"
            )
        engine = Engine(bundle, self._device, self._thread, self._metrics)
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
        return ServingModel(folder, bundle, card, engine, batcher)

    def _announce(self, model: ServingModel) -> None:
        """Say in the metrics that it serves."""
        manifest = model.manifest
        self._metrics.model_info.labels(*_info(model)).set(1)
        # From 0 on, or Prometheus would miss the first answer of each.
        for label in manifest.content.labels:
            self._metrics.predictions.labels(manifest.name, manifest.version, label)

    def _refuse(self, folder: Path, error: FendError) -> None:
        structlog.get_logger().error(
            "bundle refused", model=folder.name, code=error.code, reason=str(error)
        )
        self._metrics.models_refused.labels(folder.name, error.code).inc()
        self._models[folder.name] = RefusedModel(folder, error)


def _info(model: ServingModel) -> tuple[str, str, str, str]:
    manifest = model.manifest
    content = manifest.content
    networks = (content.denoiser.architecture, content.classifier.architecture)
    return (manifest.name, manifest.version, *networks)


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
