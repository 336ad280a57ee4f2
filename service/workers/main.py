"""`python -m service.workers.main CHANNEL LISTENER`: one worker, started by the supervisor.

The arguments are two file descriptors: of the channel to the supervisor, and of the port.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fend.errors import FendError
from service.runtime.logs import configure_logs
from service.settings import Settings
from service.workers.channel import Failed, Order, Ready
from service.workers.group import Group

if TYPE_CHECKING:
    from fastapi import FastAPI

    from service.server import Stop


def main() -> None:
    """The whole life of a worker."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    listener = socket.socket(fileno=int(sys.argv[2]))
    with channel.makefile("rb") as lines:
        order = Order.model_validate_json(lines.readline())
    group = Group(order.index, order.size, order.folder, order.own_key)
    group.pid_file_of(group.index).write_text(str(os.getpid()))
    _count_in_files(group)
    from service.server import serve

    settings = Settings(**order.settings)
    configure_logs(settings.log_format, group.index)
    try:
        serve(settings, listener, _InGroup(group, channel, order.replaces))
    except FendError as error:
        failed = Failed(code=error.code, message=str(error))
        channel.sendall(failed.model_dump_json().encode() + b"\n")
        raise SystemExit(1) from None


def _count_in_files(group: Group) -> None:
    """Let prometheus_client count in files that the other workers read too.

    They are named by the worker's index: one that replaces another counts on where that stopped.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(group.metrics_dir)
    from prometheus_client import values

    values.ValueClass = values.MultiProcessValue(lambda: group.index)  # type: ignore[no-untyped-call]


class _InGroup:
    """What a worker does that a service alone does not (a `service.server.Surroundings`)."""

    def __init__(self, group: Group, channel: socket.socket, replaces: bool) -> None:
        self.group = group
        self._channel = channel
        self._replaces = replaces

    @asynccontextmanager
    async def around(self, app: "FastAPI") -> AsyncIterator[None]:
        """Answer the other workers too."""
        from service.workers.peers import answering_peers

        if self._replaces:
            app.state.metrics.worker_deaths.inc()
        async with answering_peers(app, self.group):
            yield

    def on_serving(self, app: "FastAPI", stop: "Stop") -> None:
        """Say so, and listen to what the supervisor says from now on."""
        from service.announcement import model_lines

        self._channel.setblocking(False)
        loop = asyncio.get_running_loop()

        def heard() -> None:
            try:
                text = self._channel.recv(4096)
            except ConnectionError:
                text = b""
            if not text:
                os._exit(1)  # the supervisor has died: as if the whole service had
            for line in text.split():
                stop(int(line))

        loop.add_reader(self._channel, heard)
        ready = Ready(lines=model_lines(app.state.repository, app.state.settings.default_model))
        self._channel.sendall(ready.model_dump_json().encode() + b"\n")


if __name__ == "__main__":
    main()
