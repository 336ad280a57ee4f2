"""Holds the port, starts the workers and replaces those that die; serves nothing itself.

It stays small, so that nothing in it can fail: no models, no torch, no requests.
"""

import asyncio
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from prometheus_client.multiprocess import mark_process_dead

from fend.errors import FendError
from service.announcement import announce
from service.api.security import Access, read_access
from service.settings import Settings
from service.workers.channel import NEWS, Failed, Order, Ready
from service.workers.group import LEADER, Group

MAX_FIRST_DEATHS = 3
"""Of a worker that has not been ready yet, before the start is given up."""
STEADY_S = 10.0
"""A worker that was ready for so long is replaced at once."""
FIRST_DELAY_S = 0.25
MAX_DELAY_S = 30.0
"""Before a worker is replaced that died earlier; doubled each time."""
ENDED_WELL = "exit code 0"
"""Of a worker that was asked to end by itself."""
GRACE_S = 10.0
"""For a worker to end beyond the times in the settings; then it is killed."""


class WorkersFailed(FendError):
    """A worker died without a word before all were ready."""

    code = "workers_failed"


class WorkerRefused(FendError):
    """A worker said why it cannot start; `code` is that of its error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def supervise(settings: Settings, listener: socket.socket) -> None:
    """Serve with several workers until a signal arrives and all have finished.

    Raises:
        FendError: the service could not start.
    """
    access = read_access(settings)
    try:
        folder = tempfile.TemporaryDirectory(prefix="fend-")
    except OSError as error:
        raise WorkersFailed(f"no folder for temporary files: {error}; set TMPDIR to one") from error
    with folder:
        supervisor = Supervisor(settings, access, listener, Path(folder.name))
        asyncio.run(supervisor.run())
    structlog.get_logger().info("all workers have stopped")


def _for_workers(settings: Settings, access: Access) -> dict[str, Any]:
    """The settings, with the keys as they are now: later workers must know the same ones."""
    return settings.model_dump(mode="json") | {
        "admin_token": access.admin.hashed,
        "admin_token_file": None,
        "inference_key": " ".join(key.hashed for key in access.inference) or None,
        "inference_key_file": None,
    }


@dataclass
class _Worker:
    """One place in the group, and the process that has it now."""

    index: int
    process: Process | None = None
    channel: asyncio.StreamWriter | None = None
    ready: Ready | None = None
    ready_since_s: float = 0.0
    quick_deaths: int = 0
    """In a row, of processes that were not ready for long."""
    died: bool = False


class Supervisor:
    """The workers of one run."""

    def __init__(
        self, settings: Settings, access: Access, listener: socket.socket, folder: Path
    ) -> None:
        self._settings = settings
        self._access = access
        self._listener = listener
        self._group = Group(LEADER, settings.workers, folder, access.own_key)
        self._workers = [_Worker(index) for index in range(settings.workers)]
        self._stopping = asyncio.Event()
        self._started = False

    async def run(self) -> None:
        """From the first start of the workers to the end of the last.

        Raises:
            FendError: they could not start; none is left.
        """
        self._group.metrics_dir.mkdir()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        try:
            async with asyncio.TaskGroup() as tasks:
                for worker in self._workers:
                    tasks.create_task(self._keep_running(worker))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _keep_running(self, worker: _Worker) -> None:
        while not self._stopping.is_set():
            try:
                failed, how = await self._live(worker)
            except OSError as error:  # of the system: too many processes, or no memory
                failed, how = None, f"no process: {error.strerror}"
            if self._stopping.is_set():
                return
            mark_process_dead(worker.index, str(self._group.metrics_dir))  # type: ignore[no-untyped-call]
            worker.died = how != ENDED_WELL
            steady = worker.ready is not None and time.monotonic() - worker.ready_since_s > STEADY_S
            worker.quick_deaths = 0 if steady or not worker.died else worker.quick_deaths + 1
            self._check_start(worker, failed, how)
            delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2**worker.quick_deaths)
            structlog.get_logger().error(
                "worker ended, another takes its place", worker=worker.index, how=how,
                reason=None if failed is None else failed.message, delay_s=delay_s,
            )  # fmt: skip
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)

    def _check_start(self, worker: _Worker, failed: Failed | None, how: str) -> None:
        """Give up where not even the start works."""
        if self._started:
            return
        if failed is not None:
            raise WorkerRefused(failed.code, failed.message)
        if worker.quick_deaths >= MAX_FIRST_DEATHS:
            raise WorkersFailed(
                f"worker {worker.index} died {worker.quick_deaths} times in a row before all "
                f"workers were ready (the last time with {how}); if memory ran out, try fewer "
                "workers"
            )

    async def _live(self, worker: _Worker) -> tuple[Failed | None, str]:
        """One process, from its start to its end: what it said when it could not start, and how it
        ended.

        Raises:
            OSError: the system gives no process.
        """
        ours, theirs = socket.socketpair()
        worker.ready = None
        try:
            worker.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "service.workers.main",
                str(theirs.fileno()), str(self._listener.fileno()),
                stdin=DEVNULL,
                pass_fds=[theirs.fileno(), self._listener.fileno()],
                start_new_session=True,  # Ctrl-C is for us; we tell the workers
            )  # fmt: skip
        finally:
            theirs.close()
        try:
            news, worker.channel = await asyncio.open_unix_connection(sock=ours, limit=2**20)
            failed = None if self._stopping.is_set() else await self._converse(worker, news)
        finally:
            if worker.process.returncode is None:
                worker.process.kill()
            await worker.process.wait()
            worker.channel = None
            ours.close()
        return failed, _how(worker.process.returncode)

    async def _converse(self, worker: _Worker, news: asyncio.StreamReader) -> Failed | None:
        assert worker.process is not None
        assert worker.channel is not None
        order = Order(
            settings=_for_workers(self._settings, self._access),
            index=worker.index,
            size=self._group.size,
            folder=self._group.folder,
            own_key=self._group.own_key,
            replaces=worker.died,
        )
        worker.channel.write(order.model_dump_json().encode() + b"\n")
        failed = None
        with suppress(ConnectionError):  # it has died with the order unread
            while line := await news.readline():
                told = NEWS.validate_json(line)
                if isinstance(told, Failed):
                    failed = told
                else:
                    worker.ready, worker.ready_since_s = told, time.monotonic()
                    self._note_ready(worker)
        await worker.process.wait()
        return failed

    def _note_ready(self, worker: _Worker) -> None:
        assert worker.process is not None
        assert worker.ready is not None
        structlog.get_logger().info("worker ready", worker=worker.index, process=worker.process.pid)
        if not self._started and all(worker.ready for worker in self._workers):
            self._started = True
            announce(self._listener, self._access, worker.ready.lines, len(self._workers))

    def _stop(self, number: int) -> None:
        """Tell every worker; a second signal hurries them, as it would one service."""
        if not self._stopping.is_set():
            self._stopping.set()
            # Where a worker ended at once, nobody would accept what we still held open.
            self._listener.close()
            settings = self._settings
            limit_s = settings.drain_delay_s + settings.shutdown_timeout_s + GRACE_S
            asyncio.get_running_loop().call_later(limit_s, self._kill)
        for worker in self._workers:
            if worker.process is None or worker.process.returncode is not None:
                continue
            if worker.ready is not None and worker.channel is not None:
                worker.channel.write(b"%d\n" % number)
            else:
                worker.process.terminate()

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.process is not None and worker.process.returncode is None:
                structlog.get_logger().error("worker does not end", worker=worker.index)
                worker.process.kill()


def _how(exit_code: int | None) -> str:
    assert exit_code is not None, "it has ended"
    return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
