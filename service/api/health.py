"""Is it alive, is it ready, and what do the numbers say."""

import asyncio
import time

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from fend.errors import FendError, Unavailable
from service.api.problems import problem_docs
from service.api.schemas import Health
from service.api.services import services
from service.audits.jobs import AuditJobs
from service.inference.repository import Repository
from service.observe.lifecycle import Lifecycle

CACHE_S = 1.0
CHECK_TIMEOUT_S = 5.0

router = APIRouter(tags=["health"])


class Readiness:
    """A forward pass through every serving model, remembered for a second."""

    def __init__(self, repository: Repository, lifecycle: Lifecycle, audits: AuditJobs) -> None:
        self._repository = repository
        self._lifecycle = lifecycle
        self._audits = audits
        self._lock = asyncio.Lock()
        self._checked_s = -CACHE_S
        self._failure: str | None = None
        self._degraded: str | None = None

    async def check(self) -> str | None:
        """Return when every model that serves answers, and one does: None, or what else does not
        work.

        Raises:
            Unavailable: `draining` or `not_ready`.
        """
        if self._lifecycle.draining:
            raise Unavailable(
                "the service is about to stop; send requests elsewhere", code="draining"
            )
        if not self._repository.serving():
            reasons = [f"{n} ({m.error.code})" for n, m in self._repository.refused().items()]
            raise Unavailable(
                f"no model serves: {', '.join(reasons)}; an administrator can activate one",
                code="not_ready",
            )
        async with self._lock:
            if time.monotonic() - self._checked_s >= CACHE_S:
                self._failure = await self._probe()
                self._degraded = await self._probe_audits()
                self._checked_s = time.monotonic()
        if self._failure is not None:
            raise Unavailable(self._failure, code="not_ready")
        return self._degraded

    async def _probe_audits(self) -> str | None:
        trouble = await self._audits.trouble()
        if trouble is None:
            return None
        return f"audits wait for the disk of FEND_STATE_DIR: {trouble}"

    async def _probe(self) -> str | None:
        for name, model in self._repository.serving().items():
            if self._repository.entry(name) is not model:  # swapped since the probe began
                continue
            if not model.batcher.alive:
                return f"the queue of model {name!r} has ended"
            try:
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    await model.engine.check()
            except TimeoutError:
                return f"model {name!r} gave no answer within {CHECK_TIMEOUT_S:g} s"
            except (FendError, RuntimeError) as error:
                return f"model {name!r} failed: {error}"
        return None


@router.get("/livez", response_model_exclude_none=True)
async def livez() -> Health:
    """Whether the process answers at all."""
    return Health(status="alive")


@router.get("/readyz", responses=problem_docs(503), response_model_exclude_none=True)
@router.get("/healthz", responses=problem_docs(503), response_model_exclude_none=True)
async def readyz(request: Request) -> Health:
    """Whether every model that serves just answered a known image, one does, and no shutdown has
    begun.

    A disk that is full stops audits and not images: that is still ready, and said in `degraded`.
    """
    return Health(status="ready", degraded=await services(request).readiness.check())


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(services(request).metrics.render(), media_type=CONTENT_TYPE_LATEST)
