"""A process that works beside serving and ends with us: how it is started and ended."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter

from service.audits.messages import Failed
from service.settings import Priority

T = TypeVar("T")

MAX_LINE_BYTES = 256 * 2**20


@asynccontextmanager
async def worker_process(
    job: Literal["audit", "upload"], priority: Priority, task: str
) -> AsyncIterator[Process]:
    """`worker_main.py` with this job; its standard output is what it has to say, line by line.

    It is killed at once when the block is left, with whatever it has started.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.audits.worker_main", job, priority, task,
        stdin=PIPE,  # never written to: it closes when this process ends
        stdout=PIPE,
        limit=MAX_LINE_BYTES,
        start_new_session=True,  # Ctrl-C is for the service, which then ends its worker
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # it has ended, and all that it started
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def said_by(process: Process, kinds: TypeAdapter[T]) -> AsyncIterator[T]:
    """What the worker says until it ends, or dies in the middle of a message.

    Raises:
        RemoteError: it says why it cannot go on.
    """
    assert process.stdout is not None
    while (line := await process.stdout.readline()).endswith(b"\n"):
        message = kinds.validate_json(line)
        if isinstance(message, Failed):
            raise message.error()
        yield message


@dataclass(frozen=True)
class ProcessorTime:
    """Processor time of a process since it began, and the time that it waited for some."""

    had_ns: int
    waited_ns: int

    @classmethod
    def of(cls, pid: int) -> "ProcessorTime | None":
        """Of the first thread of a process; None where the system does not say, or it has ended."""
        try:
            had, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
            return cls(int(had), int(waited))
        except (OSError, ValueError):
            return None

    def share_since(self, before: "ProcessorTime") -> float:
        """How much of what it could have used it had since `before`, 0 to 1."""
        had_ns, waited_ns = self.had_ns - before.had_ns, self.waited_ns - before.waited_ns
        return had_ns / (had_ns + waited_ns) if had_ns + waited_ns > 0 else 1.0
