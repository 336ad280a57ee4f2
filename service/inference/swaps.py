"""Changes of what serves a model, while it serves; one at a time.

load and warm the new --> keep the decision --> it takes the traffic --> drain and stop the old
"""

import asyncio
from pathlib import Path

import structlog

from fend.bundles import read_manifest
from fend.bundles.versions import unchosen_version
from fend.errors import Conflict, FendError
from service.inference.choices import Choice, Choices
from service.inference.repository import Repository
from service.inference.serving_model import ModelLoader, RefusedModel, ServingModel
from service.observe.metrics import Metrics
from service.settings import Settings


class Swaps:
    """Activates, rolls back, loads and unloads the models of a repository."""

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        loader: ModelLoader,
        choices: Choices,
        metrics: Metrics,
    ) -> None:
        self._models_dir = settings.models_dir
        self._repository = repository
        self._loader = loader
        self._choices = choices
        self._metrics = metrics
        self._changing = asyncio.Lock()

    async def activate(self, name: str, version: str) -> ServingModel:
        """Load, verify and warm a version, then let it take the traffic; returns when the one
        before has finished what it had admitted.

        Raises:
            NotFound, VersionUnknown.
            Conflict: it does not work; nothing has changed.
            StateUnavailable: the decision cannot be kept; nothing has changed.
        """
        async with self._changing:
            await self._repository.look_for_new()
            return await self._activate(name, version)

    async def rollback(self, name: str) -> ServingModel:
        """Activate the version that served before.

        Raises:
            Conflict: there is none; and what `activate` does.
        """
        async with self._changing:
            self._repository.entry(name)
            choice = await self._choice(name)
            version = choice.unloaded or choice.previous
            if version is None:
                raise Conflict(
                    f"no other version of {name!r} has served before", code="no_previous_version"
                )
            return await self._activate(name, version)

    async def load(self, name: str) -> ServingModel:
        """Let an unloaded or refused model serve: the version that did last, or, where none was
        ever chosen, the one in the model's folder. One that serves already stays as it is.

        Raises:
            Unavailable: there is no such version, and what `activate` does.
        """
        async with self._changing:
            await self._repository.look_for_new()
            model = self._repository.entry(name)
            if isinstance(model, ServingModel):
                return model
            choice = await self._choice(name)
            version = choice.active or choice.unloaded or choice.previous
            if version is None:
                version = await asyncio.to_thread(_unchosen, self._models_dir / name)
            return await self._activate(name, version)

    async def unload(self, name: str) -> None:
        """Stop serving a model, also after a restart, until a version of it is activated.

        Raises:
            NotFound, StateUnavailable.
        """
        async with self._changing:
            await self._repository.look_for_new()
            old = self._repository.entry(name)
            choice = await self._choice(name)
            last = old.manifest.version if isinstance(old, ServingModel) else choice.unloaded
            await self._keep(name, Choice(active=None, previous=choice.previous, unloaded=last))
            self._repository.put_unloaded(name)
            await _retire(old)
            self._metrics.model_swaps.labels(name, "unloaded").inc()

    async def _activate(self, name: str, version: str) -> ServingModel:
        old = self._repository.entry(name)
        if isinstance(old, ServingModel) and old.manifest.version == version:
            return old
        folder = await asyncio.to_thread(self._repository.folder_of, name, version)
        try:
            new = await self._loader.load(folder, name)
        except FendError as error:
            self._metrics.model_swaps.labels(name, "refused").inc()
            structlog.get_logger().error(
                "version refused", model=name, version=version, reason=str(error)
            )
            raise Conflict(
                f"version {version} of {name!r} was refused ({error.code}); nothing has changed. "
                "`fend bundle verify` says more",
                code="version_refused",
            ) from error
        try:
            before = await self._choice(name)
            last = old.manifest.version if isinstance(old, ServingModel) else before.unloaded
            others = [v for v in (last, before.previous) if v not in (None, version)]
            await self._keep(name, Choice(active=version, previous=others[0] if others else None))
        except FendError:
            self._metrics.model_swaps.labels(name, "refused").inc()
            await new.batcher.stop()
            raise
        self._repository.put(name, new)
        await _retire(old)
        self._metrics.model_swaps.labels(name, "activated").inc()
        structlog.get_logger().info("version activated", model=name, version=version)
        return new

    async def _choice(self, name: str) -> Choice:
        choices = await asyncio.to_thread(self._choices.read)
        return choices.get(name, Choice(active=None))

    async def _keep(self, name: str, choice: Choice) -> None:
        await asyncio.to_thread(self._choices.write, name, choice)


def _unchosen(model_dir: Path) -> str:
    return read_manifest(unchosen_version(model_dir)).version


async def _retire(old: ServingModel | RefusedModel) -> None:
    """Let a model that takes nothing new finish, and stop it."""
    if isinstance(old, ServingModel):
        await old.batcher.drained()
        await old.batcher.stop()
