"""The app: wiring only. All state is on `app.state`, so that many apps can share a process."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import Depends, FastAPI
from pydantic.json_schema import models_json_schema

import fend
from service.api import (
    admin_models,
    audit_events,
    audits,
    classify,
    classify_batch,
    console,
    datasets,
    denoise,
    health,
    models,
)
from service.api.answering import Answering
from service.api.classify_lane import ClassifyLane
from service.api.failed_logins import FailedLogins
from service.api.health import Readiness
from service.api.limits import QUIET_ROUTES, RequestLimits
from service.api.problems import Problem, add_problem_handlers, problem_docs
from service.api.security import read_access, require_admin, require_inference
from service.api.v2 import infer, metadata, repository
from service.api.v2.protocol import InferRequest, error_docs
from service.audits.jobs import AuditJobs
from service.audits.served_check import OwnService
from service.inference.certifier import Certifier
from service.inference.choices import Choices
from service.inference.repository import Repository
from service.inference.serving_model import ModelLoader
from service.inference.swaps import Swaps
from service.runtime.lifecycle import Lifecycle
from service.runtime.metrics import Metrics
from service.runtime.traces import open_traces
from service.settings import Settings, traces_wanted
from service.state.database import Database
from service.workers.group import Group
from service.workers.peers import Peers
from service.workers.relay import Relay

DESCRIPTION = """\
Cleans an image with a denoiser trained on feature losses, classifies it, and can attack itself and
say how robust it is. Errors are problem details (RFC 9457) with a stable `code`.
"""


def create_app(
    settings: Settings, base_url: str | None = None, group: Group | None = None
) -> FastAPI:
    """The service for `settings`; models are loaded when its lifespan is entered.

    `base_url` is where it will answer, where that is known: audits then also ask it. `group`: it
    is one worker of several.

    Raises:
        SettingsError.
    """
    metrics = Metrics(group)
    traces = open_traces(traces_wanted())
    app = FastAPI(
        title="Fend",
        description=DESCRIPTION,
        version=fend.__version__,
        lifespan=_lifespan,
        telemetry=traces.config(exclude=lambda scope: scope["path"] in QUIET_ROUTES),
    )
    app.state.traces = traces
    app.state.settings = settings
    app.state.metrics = metrics
    access = read_access(settings, None if group is None else group.own_key)
    app.state.access = access
    app.state.failed_logins = FailedLogins()
    app.state.lifecycle = Lifecycle()
    peers = None if group is None else Peers(group)
    app.state.peers = peers
    app.state.leads = group is None or group.leads
    url = settings.database_url
    app.state.database = database = Database(
        settings.state_dir, url.get_secret_value() if url else None, metrics.state_failures.inc
    )
    loader, choices = ModelLoader(settings, metrics), Choices(database)
    app.state.loader = loader
    app.state.repository = Repository(settings, loader, choices, metrics)
    app.state.swaps = Swaps(
        settings, app.state.repository, loader, choices, metrics, peers.follow if peers else None
    )
    own = None if base_url is None else OwnService(base_url, access.own_key)
    app.state.audits = AuditJobs(settings, app.state.repository, database, metrics, own)

    for public in (health.router, console.router, metadata.probes):
        app.include_router(public)
    key = [Depends(require_inference)]
    for asked in (classify, classify_batch, denoise, models):
        app.include_router(asked.router, dependencies=key, responses=problem_docs(401, 408, 429))
    for spoken in (infer, metadata, repository):
        app.include_router(spoken.router, dependencies=key, responses=error_docs(401, 408, 429))
    for guarded in (
        admin_models.router, audits.router, audit_events.router, datasets.router,
        repository.changes,
    ):  # fmt: skip
        app.include_router(guarded, dependencies=[Depends(require_admin)])
    add_problem_handlers(app)
    if not traces.wanted:  # FastAPI makes the span of a request
        app.add_middleware(ClassifyLane)
    if group is not None and not group.leads:
        app.add_middleware(Relay, group=group, lifecycle=app.state.lifecycle)
    app.add_middleware(
        RequestLimits,
        max_body_bytes=settings.max_body_bytes,
        receive_timeout_s=settings.receive_timeout_s,
        # The form around the file takes a little too.
        exceptions={datasets.PATH: settings.max_dataset_bytes + 64 * 1024},
        metrics=metrics,
    )
    _document_bodies(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Engines first, then what uses them; the other way round at the end."""
    state = app.state
    torch.set_num_threads(1)  # of all but the inference thread, which has its own number
    decoders = ThreadPoolExecutor(state.settings.decode_threads, thread_name_prefix="decode")
    state.answering = Answering(
        state.settings, state.repository, decoders, state.metrics, state.traces
    )
    state.certifier = Certifier(state.settings, state.metrics)
    peers: Peers | None = state.peers
    state.readiness = Readiness(
        state.repository,
        state.lifecycle,
        state.audits if state.leads else None,
        None if peers is None else peers.check_ready,
    )
    try:
        await asyncio.to_thread(state.database.open)
        await state.repository.open()
        if not state.leads:
            yield
            return
        await state.audits.start()
        try:
            yield
        finally:
            await state.audits.stop()
    finally:
        if peers is not None:
            await peers.close()
        await state.repository.close()
        await asyncio.to_thread(state.database.close)
        await state.certifier.close()
        decoders.shutdown()
        await asyncio.to_thread(state.traces.close)


def _document_bodies(app: FastAPI) -> None:
    """Add the schemas that the routes refer to by name, and FastAPI cannot see."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        _, extra = models_json_schema(
            [(Problem, "serialization"), (InferRequest, "validation")],
            ref_template="#/components/schemas/{model}",
        )
        schemas |= extra["$defs"]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
