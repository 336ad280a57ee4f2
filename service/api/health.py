"""Is it alive, is it ready, and what do the numbers say."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from fend.errors import FendError
from service.api.problems import problem_docs
from service.api.schemas import Health
from service.audits.jobs import AuditJobs
from service.inference.repository import Repository
from service.runtime.lifecycle import Lifecycle
from service.runtime.metrics import Metrics

CACHE_S = 1.0
CHECK_TIMEOUT_S = 5.0

router = APIRouter(tags=["health"])


class NotReady(FendError):
    """A model does not answer."""

    code = "not_ready"


class Draining(FendError):
    """The service is about to stop."""

    code = "draining"


class Readiness:
    """A forward pass through every serving model, remembered for a second."""

    def __init__(
        self,
        repository: Repository,
        lifecycle: Lifecycle,
        audits: AuditJobs | None,
        others: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        """`audits`: None where another process keeps them. `others`: what `check_own` says of the
        other processes of the service."""
        self._repository = repository
        self._lifecycle = lifecycle
        self._audits = audits
        self._others = others
        self._lock = asyncio.Lock()
        self._checked_s = -CACHE_S
        self._failure: str | None = None
        self._degraded: str | None = None

    async def check(self) -> str | None:
        """Return when every model that serves answers, and one does, in every process: None, or
        what else does not work.

        Raises:
            Draining, NotReady.
        """
        degraded = await self.check_own()
        if self._others is None:
            return degraded
        return await self._others() or degraded

    async def check_own(self) -> str | None:
        """The same for this process alone."""
        if self._lifecycle.draining:
            raise Draining("the service is about to stop; send requests elsewhere")
        if not self._repository.serving():
            reasons = [f"{n} ({m.error.code})" for n, m in self._repository.refused().items()]
            raise NotReady(
                f"no model serves: {', '.join(reasons)}; an administrator can activate one"
            )
        async with self._lock:
            if time.monotonic() - self._checked_s >= CACHE_S:
                self._failure = await self._probe()
                self._degraded = await self._probe_audits()
                self._checked_s = time.monotonic()
        if self._failure is not None:
            raise NotReady(self._failure)
        return self._degraded

    async def _probe_audits(self) -> str | None:
        trouble = None if self._audits is None else await self._audits.trouble()
        if trouble is None:
            return None
        return f"audits wait for the disk of FEND_STATE_DIR ({trouble}); make room on it"

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
    """Whether every model that serves just answered a known image, one does, in every worker, and
    no shutdown has begun.

    A disk that is full stops audits and not images: that is still ready, and said in `degraded`.
    """
    return Health(status="ready", degraded=await request.app.state.readiness.check())


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus metrics, of all workers together."""
    shown: Metrics = request.app.state.metrics
    # Those of several workers are read from files.
    text = await asyncio.to_thread(shown.render) if shown.shared else shown.render()
    return Response(text, media_type=CONTENT_TYPE_LATEST)
