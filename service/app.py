"""The app: wiring only. All state is in its `Services`, so that many apps can share a process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from pydantic.json_schema import models_json_schema

import fend
from service.api import health
from service.api.answering import Answering
from service.api.health import Readiness
from service.api.middleware import QUIET_ROUTES, Overload, Prefix, RequestLimits
from service.api.problems import Problem, add_problem_handlers, problem_docs
from service.api.security import (
    PRIVATE,
    SCHEMES,
    FailedLogins,
    read_access,
    require_admin,
    require_inference,
)
from service.api.services import Services, services_of
from service.api.v1 import (
    admin_models,
    attacks,
    audit_events,
    audits,
    classify,
    classify_batch,
    datasets,
    denoise,
    models,
)
from service.api.v2 import infer, metadata, repository
from service.api.v2.protocol import HEADER_LENGTH, InferRequest, error_docs
from service.audits.jobs import AuditJobs
from service.audits.served_check import OwnService
from service.console import page
from service.inference.attacker import Attacker
from service.inference.certifier import Certifier
from service.inference.choices import Choices
from service.inference.repository import Repository
from service.inference.serving_model import ModelLoader
from service.inference.swaps import Swaps
from service.observe.lifecycle import Lifecycle
from service.observe.metrics import Metrics
from service.observe.traces import open_traces
from service.settings import Settings, traces_wanted
from service.state.database import Database

MAX_SPEC_BYTES = 256 * 1024
"""Largest JSON of an administrator: it is read on the event loop."""

EXPOSED_HEADERS = (
    HEADER_LENGTH, "Location", "Retry-After", "Server-Timing", "WWW-Authenticate", "X-Request-ID"
)  # fmt: skip
"""What scripts of other origins may read beside what every answer lets them read."""

DESCRIPTION = """\
Cleans an image with a denoiser trained on feature losses, classifies it, and can attack itself and
say how robust it is. Errors are problem details (RFC 9457) with a stable `code`.
"""


def create_app(settings: Settings, base_url: str | None = None) -> FastAPI:
    """The service for `settings`; models are loaded when its lifespan is entered.

    `base_url` is where it will answer, where that is known: audits then also ask it.

    Raises:
        Invalid.
    """
    made = _services(settings, base_url)
    app = FastAPI(
        title="Fend",
        description=DESCRIPTION,
        version=fend.__version__,
        lifespan=_lifespan,
        telemetry=made.traces.config(
            exclude=lambda scope: scope["path"].removeprefix(settings.root_path) in QUIET_ROUTES
        ),
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = made

    # What is asked most comes first: every route before it costs a comparison.
    key = [Depends(require_inference)]
    for asked in (classify, classify_batch, denoise, models):
        app.include_router(asked.router, dependencies=key, responses=problem_docs(401, 408, 429))
    for spoken in (infer, metadata, repository):
        app.include_router(spoken.router, dependencies=key, responses=error_docs(401, 408, 429))
    for guarded in (
        admin_models.router, attacks.router, audits.router, audit_events.router, datasets.router,
        repository.changes,
    ):  # fmt: skip
        app.include_router(guarded, dependencies=[Depends(require_admin)])
    for public in (health.router, page.router, metadata.probes):
        app.include_router(public)
    add_problem_handlers(app)
    if settings.allowed_hosts:
        hosts = [*settings.allowed_hosts, "localhost", "127.0.0.1", "[::1]"]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    app.add_middleware(
        RequestLimits,
        services=made,
        max_body_bytes={
            # The form around the file takes a little too.
            datasets.PATH: settings.max_dataset_bytes + 64 * 1024,
            attacks.PATH: settings.max_body_bytes,
            "/v1/admin/": MAX_SPEC_BYTES,
            "/v2/repository/": MAX_SPEC_BYTES,
            "/": settings.max_body_bytes,
        },
        without_deadline=datasets.PATH,  # it has one for each piece
    )
    app.add_middleware(Overload, services=made)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    if settings.root_path:
        app.add_middleware(Prefix, root_path=settings.root_path)
    _complete_documents(app)
    return app


def _services(settings: Settings, base_url: str | None) -> Services:
    metrics, access = Metrics(), read_access(settings)
    traces = open_traces(traces_wanted())
    url = settings.database_url
    database = Database(
        settings.state_dir,
        url.get_secret_value() if url else None,
        metrics.state_failures.inc,
        lambda kind: metrics.state_unreadable.labels(kind).inc(),
    )
    loader, choices = ModelLoader(settings, metrics), Choices(database)
    repository = Repository(settings, loader, choices, metrics)
    own = None if base_url is None else OwnService(base_url, access.own_key)
    audits, lifecycle = AuditJobs(settings, repository, database, metrics, own), Lifecycle()
    return Services(
        settings=settings,
        access=access,
        failed_logins=FailedLogins(),
        lifecycle=lifecycle,
        metrics=metrics,
        traces=traces,
        database=database,
        loader=loader,
        repository=repository,
        swaps=Swaps(settings, repository, loader, choices, metrics),
        certifier=Certifier(settings, metrics),
        attacker=Attacker(settings, metrics),
        answering=Answering(settings, repository, metrics, traces),
        audits=audits,
        readiness=Readiness(repository, lifecycle, audits),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Engines first, then what uses them; the other way round at the end."""
    made = services_of(app)
    torch.set_num_threads(1)  # of all but the inference thread, which has its own number
    try:
        await asyncio.to_thread(made.database.open)
        await made.repository.open()
        await made.audits.start()
        try:
            yield
        finally:
            await made.audits.stop()
    finally:
        await made.repository.close()
        await asyncio.to_thread(made.database.close)
        await made.certifier.close()
        await made.attacker.close()
        made.answering.close()
        await asyncio.to_thread(made.traces.close)


def _complete_documents(app: FastAPI) -> None:
    """Add to OpenAPI what FastAPI cannot see: schemas that the routes refer to by name, and who
    needs a key."""
    plain, open_to_all = app.openapi, not services_of(app).access.inference

    def openapi() -> dict[str, Any]:
        schema = plain()
        components = schema.setdefault("components", {})
        _, extra = models_json_schema(
            [(Problem, "serialization"), (InferRequest, "validation")],
            ref_template="#/components/schemas/{model}",
        )
        components["schemas"] = components.get("schemas", {}) | extra["$defs"]
        components["securitySchemes"] = SCHEMES
        for path, operations in schema["paths"].items():
            if path.startswith(PRIVATE) or not open_to_all:
                for operation in operations.values():
                    if "401" in operation["responses"]:
                        operation["security"] = [{name: []} for name in SCHEMES]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
