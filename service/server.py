"""From start to stop, in the right order.

    bind the port -> load and warm the models -> accept -> (signal) not ready, still serving
    -> stop accepting -> finish what is in flight -> close audits and engines

uvicorn alone would close its socket before the app hears of the signal, so the signals are ours.
"""

import asyncio
import signal
import socket
import sys
from dataclasses import replace
from types import FrameType
from typing import ClassVar

import structlog
import uvicorn
from fastapi import FastAPI

from fend.errors import FendError
from service.api.security import check_exposure
from service.runtime.connections import protocol, refuse_connections
from service.runtime.lifecycle import Lifecycle
from service.runtime.logs import configure_logs
from service.settings import Settings

ACCEPT_REST_S = 0.1
"""How long connections that are complete, but not accepted, are still taken at the stop."""


class PortUnavailable(FendError):
    """The address cannot be listened on."""

    code: ClassVar[str] = "port_unavailable"


def run(settings: Settings) -> None:
    """Serve until a signal arrives and everything in flight is finished.

    Raises:
        FendError: the service could not start.
    """
    configure_logs(settings.log_format)
    check_exposure(settings)
    with _bind(settings) as sock:
        # Imported late: a port in use should be said at once.
        from service.api.gate import Gate
        from service.app import create_app

        app = create_app(settings, _own_url(sock))
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
            runner.run(_serve(config, settings, sock))


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


async def _serve(config: uvicorn.Config, settings: Settings, sock: socket.socket) -> None:
    app = config.app
    assert isinstance(app, FastAPI)
    async with app.router.lifespan_context(app):
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        # One turn of the loop: uvicorn installs its signal handlers, then ours replace them.
        await asyncio.sleep(0)
        _handle_signals(server, sock, app.state.lifecycle, settings.drain_delay_s)
        _announce(app, settings, sock)
        await serving
    structlog.get_logger().info("stopped")


def _handle_signals(
    server: uvicorn.Server, sock: socket.socket, lifecycle: Lifecycle, drain_delay_s: float
) -> None:
    """SIGTERM drains, then stops; Ctrl-C stops without the delay; a second signal hurries."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        # Whoever is connected by now is accepted in the next moments: closing the socket under the
        # kernel's queue would reset them.
        if refuse_connections(sock):
            loop.call_later(ACCEPT_REST_S, exit_)
        else:
            exit_()

    def exit_() -> None:
        server.should_exit = True

    def signalled(number: int) -> None:
        name = signal.Signals(number).name
        if server.should_exit:
            server.force_exit = True
        elif lifecycle.draining or number == signal.SIGINT or not server.started:
            lifecycle.drain()
            structlog.get_logger().info("stopping", signal=name)
            stop() if server.started else exit_()
        else:
            lifecycle.drain()
            structlog.get_logger().info("draining", signal=name, delay_s=drain_delay_s)
            loop.call_later(drain_delay_s, stop)

    def handler(number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(signalled, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _own_url(sock: socket.socket) -> str:
    """Where this process reaches itself."""
    host, port = sock.getsockname()[:2]
    return _url({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announce(app: FastAPI, settings: Settings, sock: socket.socket) -> None:
    """Say on the terminal, not in the log, what a person needs to start."""
    access = app.state.access
    lines = [f"Fend serves at {_url(*sock.getsockname()[:2])} (try /docs)"]
    for name, model in app.state.repository.serving().items():
        default = "  (default)" if name == settings.default_model else ""
        lines.append(f"  model  {name}  {model.manifest.version}{default}")
    for name, refused in app.state.repository.refused().items():
        lines.append(f"  model  {name}  REFUSED: {refused.error}")
    if access.generated is not None:
        lines.append(f"  admin  token {access.generated} (made now, shown once)")
        app.state.access = replace(access, generated=None)
    else:
        lines.append(f"  admin  token from {access.admin_source}")
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()
