"""From start to stop, in the right order.

    bind the port -> load and warm the models -> accept -> (signal) not ready, still serving
    -> stop accepting -> finish what is in flight -> close audits and engines

uvicorn alone would close its socket before the app hears of the signal, so the signals are ours.
With several workers, `service/workers/supervisor.py` does this in each of them.
"""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import Context
from dataclasses import replace
from types import FrameType
from typing import Protocol

import structlog
import uvicorn
from fastapi import FastAPI

from fend.errors import FendError
from service.announcement import announce, model_lines, own_url
from service.api.security import check_exposure
from service.runtime.connections import protocol, refuse_connections
from service.runtime.lifecycle import Lifecycle
from service.runtime.logs import configure_logs
from service.settings import Settings
from service.workers.group import Group

ACCEPT_REST_S = 0.1
"""How long connections that are complete, but not accepted, are still taken at the stop."""


GARBAGE_OBJECTS = 20_000
"""How many more objects must be made than freed before Python looks for cycles among them."""


class PortUnavailable(FendError):
    """The address cannot be listened on."""

    code = "port_unavailable"


Stop = Callable[[int], None]
"""Stops the service as this signal does."""


class Surroundings(Protocol):
    """What differs between a service alone and one worker of several."""

    @property
    def group(self) -> Group | None:
        """Of which workers it is one."""

    def around(self, app: FastAPI, /) -> AbstractAsyncContextManager[None]:
        """Entered when the models are loaded, left when everything in flight is finished."""

    def on_serving(self, app: FastAPI, stop: Stop, /) -> None:
        """The port is open."""


def run(settings: Settings) -> None:
    """Serve until a signal arrives and everything in flight is finished.

    Raises:
        FendError: the service could not start.
    """
    configure_logs(settings.log_format)
    check_exposure(settings)
    with _bind(settings) as sock:
        if settings.workers > 1:
            from service.workers.supervisor import supervise

            supervise(settings, sock)
        else:
            serve(settings, sock, _Alone(sock))


def serve(settings: Settings, sock: socket.socket, surroundings: Surroundings) -> None:
    """Serve on a bound socket, in this process.

    Raises:
        FendError: the service could not start.
    """
    # Imported late: a port in use should be said at once.
    from service.api.gate import Gate
    from service.app import create_app

    app = create_app(settings, own_url(sock), surroundings.group)
    gate = Gate(app.state.repository, app.state.metrics)
    config = uvicorn.Config(
        app,
        http=protocol(settings.receive_timeout_s, settings.max_connections, gate),
        lifespan="off",  # entered in _serve, so that what it raises arrives here
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(config, settings, sock, surroundings))


class _Alone:
    """The only process."""

    group = None

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def around(self, _app: FastAPI) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def on_serving(self, app: FastAPI, _stop: Stop) -> None:
        state = app.state
        lines = model_lines(state.repository, state.settings.default_model)
        announce(self._sock, state.access, lines)
        state.access = replace(state.access, generated=None)


def _bind(settings: Settings) -> socket.socket:
    """A bound socket that does not listen yet: clients are refused until the models are warm."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        if sys.platform != "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        raise PortUnavailable(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "choose another with --host and --port"
        ) from error
    return sock


async def _serve(
    config: uvicorn.Config, settings: Settings, sock: socket.socket, surroundings: Surroundings
) -> None:
    app = config.app
    assert isinstance(app, FastAPI)
    async with app.router.lifespan_context(app), surroundings.around(app):
        # What is there now stays: a collection that looked through it would stop all for 200 ms.
        # And what a request makes ends with it: looking every 700 objects finds nothing.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        # One turn of the loop: uvicorn installs its signal handlers, then ours replace them.
        await asyncio.sleep(0)
        alone = surroundings.group is None
        stop = _handle_signals(server, sock, app.state.lifecycle, settings.drain_delay_s, alone)
        surroundings.on_serving(app, stop)
        await serving
    structlog.get_logger().info("stopped")


def _handle_signals(
    server: uvicorn.Server,
    sock: socket.socket,
    lifecycle: Lifecycle,
    drain_delay_s: float,
    alone: bool,
) -> Stop:
    """SIGTERM drains, then stops; Ctrl-C stops without the delay; a second signal hurries.

    Where this process is not alone on the socket, a signal is for this one: the others go on
    accepting from it. What is returned stops it as one of all.
    """
    loop = asyncio.get_running_loop()

    def stop(everybody: bool) -> None:
        # Whoever is connected by now is accepted in the next moments: closing the socket under the
        # kernel's queue would reset them.
        if everybody and refuse_connections(sock):
            loop.call_later(ACCEPT_REST_S, exit_)
        else:
            exit_()

    def exit_() -> None:
        server.should_exit = True

    def signalled(number: int, everybody: bool) -> None:
        name = signal.Signals(number).name
        if server.should_exit:
            server.force_exit = True
        elif lifecycle.draining or number == signal.SIGINT or not server.started:
            lifecycle.drain()
            structlog.get_logger().info("stopping", signal=name)
            stop(everybody) if server.started else exit_()
        else:
            lifecycle.drain()
            structlog.get_logger().info("draining", signal=name, delay_s=drain_delay_s)
            loop.call_later(drain_delay_s, stop, everybody)

    def handler(number: int, _frame: FrameType | None) -> None:
        # In a context of its own: the signal has nothing to do with the request it comes in.
        loop.call_soon_threadsafe(signalled, number, alone, context=Context())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)

    return lambda number: signalled(number, True)
