"""A process that works beside serving and ends with us: how it is started and ended."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

from service.settings import Priority

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
