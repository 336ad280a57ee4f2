"""From start to stop, in the right order.

    bind the port -> load and warm the models -> accept -> (signal) not ready, still serving
    -> stop accepting -> finish what is in flight -> close audits and engines

uvicorn alone would close its socket before the app hears of the signal, so the signals are ours.
"""

import asyncio
import gc
import signal
import socket
import sys
from contextvars import Context
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

import structlog
import uvicorn
from fastapi import FastAPI

from fend.errors import Invalid
from service.api.security import check_exposure, loopback
from service.connections import protocol
from service.observe.logs import configure_logs
from service.settings import Settings, unknown_variables

if TYPE_CHECKING:
    from service.api.services import Services

GARBAGE_OBJECTS = 20_000
"""How many more objects must be made than freed before Python looks for cycles among them."""


def run(settings: Settings) -> None:
    """Serve until a signal arrives and everything in flight is finished.

    Raises:
        FendError: the service could not start.
    """
    configure_logs(settings.log_format)
    check_exposure(settings)
    _check_variables(settings)
    with _bind(settings) as sock:
        # Imported late: a port in use should be said at once.
        from service.app import create_app

        host, port = sock.getsockname()[:2]
        own_host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        config = uvicorn.Config(
            create_app(settings, _url(own_host, port)),
            http=protocol(settings.receive_timeout_s, settings.max_connections),
            lifespan="off",  # entered in _serve, so that what it raises arrives here
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
        )
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(config, sock))


def _check_variables(settings: Settings) -> None:
    """Name variables that look like settings and are none: one may have been meant for a key.

    Raises:
        Invalid: there are some, and other machines can reach the service.
    """
    unknown = unknown_variables()
    if unknown and not loopback(settings.host):
        raise Invalid(
            f"{'; '.join(unknown)}. Correct the name, or unset it", code="settings_invalid"
        )
    for told in unknown:
        sys.stderr.write(f"fend serve: warning: {told}; it is ignored\n")
        structlog.get_logger().warning("unknown variable", told=told)


def _bind(settings: Settings) -> socket.socket:
    """A bound socket that does not listen yet: clients are refused until the models are warm."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, number)
        if sys.platform != "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        raise Invalid(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "choose another with --host and --port",
            code="port_unavailable",
        ) from error
    return sock


async def _serve(config: uvicorn.Config, sock: socket.socket) -> None:
    from service.api.services import services_of

    app = config.app
    assert isinstance(app, FastAPI)
    services = services_of(app)
    async with app.router.lifespan_context(app):
        # What is there now stays: a collection that looked through it would stop all for 200 ms.
        # And what a request makes ends with it: looking every 700 objects finds nothing.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        # One turn of the loop: uvicorn installs its signal handlers, then ours replace them.
        await asyncio.sleep(0)
        _handle_signals(server, services)
        _announce(sock, services)
        services.access = replace(services.access, generated=None)
        await serving
    structlog.get_logger().info("stopped")


def _handle_signals(server: uvicorn.Server, services: "Services") -> None:
    """SIGTERM drains, then stops; Ctrl-C stops without the delay; a second signal hurries."""
    loop = asyncio.get_running_loop()
    lifecycle, delay_s = services.lifecycle, services.settings.drain_delay_s

    def stop() -> None:
        server.should_exit = True

    def signalled(number: int) -> None:
        name = signal.Signals(number).name
        if server.should_exit:
            server.force_exit = True
        elif lifecycle.draining or number == signal.SIGINT or not server.started:
            lifecycle.drain()
            structlog.get_logger().info("stopping", signal=name)
            stop()
        else:
            lifecycle.drain()
            structlog.get_logger().info("draining", signal=name, delay_s=delay_s)
            loop.call_later(delay_s, stop)

    def handler(number: int, _frame: FrameType | None) -> None:
        # In a context of its own: the signal has nothing to do with the request it comes in.
        loop.call_soon_threadsafe(signalled, number, context=Context())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _announce(listener: socket.socket, services: "Services") -> None:
    """Say on the terminal, not in the log, what a person needs to start."""
    lines = [f"Fend serves at {_url(*listener.getsockname()[:2])} (try /docs)"]
    for name, model in services.repository.serving().items():
        default = "  (default)" if name == services.repository.default else ""
        lines.append(f"  model  {name}  {model.manifest.version}{default}")
    for name, refused in services.repository.refused().items():
        lines.append(f"  model  {name}  REFUSED: {refused.error}")
    access = services.access
    if access.generated is not None:
        lines.append(f"  admin  token {access.generated} (made now, shown once)")
    else:
        lines.append(f"  admin  token from {access.admin_source}")
    settings = services.settings
    for name in ("models", "data", "state"):
        lines.append(f"  {name:6} in {getattr(settings, f'{name}_dir')}")
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
