"""The models of `models_dir` by name: verified when the service starts, each serving or refused."""

import asyncio
from pathlib import Path

import structlog

from fend.bundles.versions import VersionUnknown, find_version, model_folders, unchosen_version
from fend.errors import FendError, Invalid, NotFound, RemoteError, Unavailable
from service.inference.choices import Choice, Choices
from service.inference.serving_model import ModelLoader, RefusedModel, ServingModel
from service.observe.metrics import Metrics
from service.settings import Settings


class ModelUnloaded(Unavailable):
    """No version of the model is active, by an administrator's choice."""

    code = "model_unloaded"


USUAL = "mnist"


class Repository:
    """All models, by name. `open` and `close` it around its use; `Swaps` changes what serves."""

    def __init__(
        self, settings: Settings, loader: ModelLoader, choices: Choices, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._loader = loader
        self._choices = choices
        self._metrics = metrics
        self._models: dict[str, ServingModel | RefusedModel] = {}
        self.default = ""
        """The model that answers when a request names none; known once this is open."""
        self.missing: dict[str, str] = {}
        """The versions that were to serve and were not on disk at the start, by model."""

    async def open(self) -> None:
        """Load, verify and warm every model. A broken one is refused; the others serve.

        Raises:
            Invalid: nothing to serve, or no default model.
            Invalid: limits for a model that there is not.
            Unavailable: the state folder cannot be read; Invalid: there is no such device.
        """
        settings = self._settings
        folders = {folder.name: folder for folder in _folders(settings.models_dir)}
        there = f"{settings.models_dir}, which has {', '.join(folders)}"
        for name in settings.model_limits:
            if name not in folders:
                raise Invalid(
                    f"model_limits: there is no model {name!r} in {there}", code="settings_invalid"
                )
        self.default = settings.default_model or _usual(list(folders))
        if self.default not in folders:
            what = f"the default model {self.default!r} is not in {there}"
            if not self.default:
                what = f"a default model is needed, and mnist is not in {there}"
            raise _no_models(f"{what}; set FEND_DEFAULT_MODEL to one of them")
        self._loader.open()
        chosen = await asyncio.to_thread(self._choices.read)
        for name, folder in folders.items():
            await self._open_one(folder, chosen.get(name))
        unloaded = any(isinstance(m.error, ModelUnloaded) for m in self.refused().values())
        if not self.serving() and not unloaded:
            reasons = [f"{name}: {model.error}" for name, model in self.refused().items()]
            raise _no_models(
                f"no bundle in {settings.models_dir} can be used: {'; '.join(reasons)}"
            )

    async def close(self) -> None:
        """Stop every queue, then the inference thread."""
        for model in self.serving().values():
            await model.batcher.stop()
        await self._loader.close()

    def get(self, name: str | None) -> ServingModel:
        """The model called `name`, or the default one.

        Raises:
            NotFound: there is none.
            FendError: with the code for which its bundle was refused.
        """
        name = name or self.default
        model = self.entry(name)
        if isinstance(model, RefusedModel) and isinstance(model.error, ModelUnloaded):
            raise ModelUnloaded(str(model.error))
        if isinstance(model, RefusedModel):
            raise RemoteError(
                f"the bundle of model {name!r} was refused when the service started; "
                "the service's log says why. An administrator can repair and activate it",
                code=model.error.code,
                status=503,
            )
        return model

    def entry(self, name: str) -> ServingModel | RefusedModel:
        """The model called `name`, serving or refused.

        Raises:
            NotFound: there is none.
        """
        if name not in self._models:
            raise NotFound(
                f"no model {name!r}; there are: {', '.join(sorted(self._models))}",
                code="model_unknown",
            )
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
            NotFound, VersionUnknown.
        """
        self.entry(name)
        return find_version(self._settings.models_dir / name, version)

    def put(self, name: str, model: ServingModel | RefusedModel) -> None:
        """Let `model` be what is called `name` from now on, and say so in the metrics."""
        before = self._models.get(name)
        self._models[name] = model
        self.missing.pop(name, None)
        if isinstance(before, ServingModel):
            self._metrics.model_info.remove(*_info(before))
        if isinstance(model, ServingModel):
            self._metrics.model_info.labels(*_info(model)).set(1)
            # From 0 on, or Prometheus would miss the first answer of each.
            for label in model.manifest.content.labels:
                self._metrics.predictions.labels(name, model.manifest.version, label)

    def put_unloaded(self, name: str) -> None:
        """Let no version of a model be active."""
        error = ModelUnloaded(f"the model {name!r} is unloaded; an administrator can load it")
        self.put(name, RefusedModel(self._settings.models_dir / name, error))

    async def look_for_new(self) -> None:
        """Notice models that were added since the start; they are unloaded until they are asked
        to serve."""
        for folder in await asyncio.to_thread(model_folders, self._settings.models_dir):
            if folder.name not in self._models:
                self.put_unloaded(folder.name)

    async def _open_one(self, folder: Path, choice: Choice | None) -> None:
        """What was decided for a model; where that version is gone, or nothing was decided, what
        its folder holds."""
        name = folder.name
        if choice is not None and choice.active is None:
            self.put_unloaded(name)
            return
        missing = None
        try:
            if choice is not None and choice.active is not None:
                try:
                    chosen = await asyncio.to_thread(find_version, folder, choice.active)
                except VersionUnknown as error:
                    missing = choice.active
                    structlog.get_logger().error(
                        "active version is missing; serving what is in the model's folder itself",
                        model=name, version=choice.active,
                    )  # fmt: skip
                    self._metrics.models_refused.labels(name, error.code).inc()
            if choice is None or missing is not None:
                chosen = await asyncio.to_thread(unchosen_version, folder)
            self.put(name, await self._loader.load(chosen, name))
        except FendError as error:
            structlog.get_logger().error(
                "bundle refused", model=name, code=error.code, reason=str(error)
            )
            self._metrics.models_refused.labels(name, error.code).inc()
            self.put(name, RefusedModel(folder, error))
        if missing is not None:
            self.missing[name] = missing


def _info(model: ServingModel) -> tuple[str, str, str, str, str]:
    manifest = model.manifest
    content = manifest.content
    networks = (content.denoiser.architecture, content.classifier.architecture)
    return (manifest.name, manifest.version, *networks, model.engine.computing.engine)


def _usual(names: list[str]) -> str:
    """The default model where nobody chose one; empty where it could be any."""
    if USUAL in names:
        return USUAL
    return names[0] if len(names) == 1 else ""


def _no_models(message: str) -> Invalid:
    return Invalid(message, code="no_models")


def _folders(models_dir: Path) -> list[Path]:
    if not models_dir.is_dir():
        raise _no_models(f"there is no folder {models_dir} with models; set FEND_MODELS_DIR")
    folders = model_folders(models_dir)
    if not folders:
        raise _no_models(f"{models_dir} holds no bundle; train one, or set FEND_MODELS_DIR")
    return folders
