"""What workers ask each other, over their private sockets.

GET  /worker/readyz    whether this one is ready, whatever the others are
POST /worker/models    read again which versions were chosen, and serve those
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import structlog
import uvicorn
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fend.errors import FendError
from service.api.health import NotReady
from service.workers.group import Group

READY_TIMEOUT_S = 6.0
"""A little longer than a worker waits for its own models."""
LOAD_TIMEOUT_S = 300.0
"""For loading and warming a version."""


class WorkersDisagree(FendError):
    """Not every worker serves what was chosen."""

    code = "workers_disagree"


class Peers:
    """The other workers of the group."""

    def __init__(self, group: Group) -> None:
        self._clients = {
            index: httpx.AsyncClient(
                # A new connection each time: an old one may lead to a process that is dead.
                transport=httpx.AsyncHTTPTransport(
                    uds=str(group.socket_of(index)),
                    limits=httpx.Limits(max_keepalive_connections=0),
                ),
                base_url="http://worker",
            )
            for index in group.others
        }

    async def check_ready(self) -> str | None:
        """Return when every other worker is ready: None, or what else does not work there.

        Raises:
            NotReady: one is not.
        """
        return next(
            filter(None, await asyncio.gather(*map(self._check_ready, self._clients))), None
        )

    async def follow(self) -> None:
        """Let the others serve what was chosen. One that is just starting will read it by itself.

        Raises:
            WorkersDisagree: one does not; it ends and is replaced.
        """
        problems = await asyncio.gather(*(self._not_following(index) for index in self._clients))
        for problem in problems:
            if problem is not None:
                raise WorkersDisagree(problem)

    async def close(self) -> None:
        """Let go of all connections."""
        for client in self._clients.values():
            await client.aclose()

    async def _check_ready(self, index: int) -> str | None:
        try:
            response = await self._clients[index].get("/worker/readyz", timeout=READY_TIMEOUT_S)
        except httpx.TimeoutException as error:
            raise NotReady(f"worker {index} gave no answer in {READY_TIMEOUT_S:g} s") from error
        except httpx.TransportError as error:
            raise NotReady(f"worker {index} has died, or has not started yet") from error
        if response.status_code != 200:
            raise NotReady(f"worker {index}: {response.text}")
        return response.text or None

    async def _not_following(self, index: int) -> str | None:
        try:
            response = await self._clients[index].post("/worker/models", timeout=LOAD_TIMEOUT_S)
        except httpx.TimeoutException:
            reason = f"no answer in {LOAD_TIMEOUT_S:g} s"
        except httpx.TransportError:
            return None  # dead, or just starting: it reads the choice when it listens
        else:
            if response.status_code == 200:
                return None
            reason = response.text
        return (
            f"the choice is kept, but worker {index} does not serve it yet ({reason}); a worker "
            "that cannot is replaced and tries again. Until then answers name either version"
        )


@asynccontextmanager
async def answering_peers(app: FastAPI, group: Group) -> AsyncIterator[None]:
    """Listen on this worker's private socket, and serve what was chosen by now.

    Raises:
        FendError: what was chosen cannot be served.
    """
    up_to_date = asyncio.Event()
    config = uvicorn.Config(
        _private(app, up_to_date),
        uds=str(group.socket_of(group.index)),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips="*",  # only our own workers reach it, and they say who asked them
        timeout_graceful_shutdown=max(1, round(app.state.settings.shutdown_timeout_s)),
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(), name="private socket")
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if serving.done():
            serving.result()
        # Only now: whoever chooses from here on reaches us.
        await app.state.swaps.follow()
        if group.leads:
            await _lead(app.state.peers)
        up_to_date.set()
        yield
    finally:
        server.should_exit = True
        await serving


async def _lead(peers: Peers) -> None:
    """A leader that died may have told its choice to nobody."""
    try:
        await peers.follow()
    except WorkersDisagree as error:
        structlog.get_logger().error("workers disagree", reason=str(error))


def _private(app: FastAPI, up_to_date: asyncio.Event) -> ASGIApp:
    """`app` as the other workers see it; ready only when it serves what was chosen."""

    async def private(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/worker/readyz":
            await (await _readyz(app, up_to_date))(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/worker/models":
            await (await _follow(app))(scope, receive, send)
        else:
            await app(scope, receive, send)

    return private


async def _readyz(app: FastAPI, up_to_date: asyncio.Event) -> PlainTextResponse:
    if not up_to_date.is_set():
        return PlainTextResponse("it is starting", 503)
    try:
        degraded = await app.state.readiness.check_own()
    except FendError as error:
        return PlainTextResponse(str(error), 503)
    return PlainTextResponse(degraded or "")


async def _follow(app: FastAPI) -> PlainTextResponse:
    try:
        await app.state.swaps.follow()
    except FendError as error:
        structlog.get_logger().error("the chosen version cannot be served", reason=str(error))
        os.kill(os.getpid(), signal.SIGTERM)  # finish what is in flight; be replaced
        return PlainTextResponse(f"{error.code}: {error}", 503)
    return PlainTextResponse("serving")
