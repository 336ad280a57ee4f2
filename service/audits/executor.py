"""Runs an audit in a process of its own, and starts it anew where it left off when it dies."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from fend.audit import Source
from fend.errors import FendError
from service.audits.messages import MESSAGE, Done, Opened, ShardDone, Task
from service.audits.worker_process import said_by, worker_process

MAX_RESTARTS = 3
"""For the same shard; a finished shard starts the count anew."""

RESTART_DELAY_S = 0.2
"""Before the first restart; longer before each further one."""


async def execute(
    task: Task,
    on_start: Callable[[int], None],
    on_source: Callable[[Source], Awaitable[None]],
    on_shard: Callable[[ShardDone], Awaitable[None]],
    on_death: Callable[[], Awaitable[None]],
) -> None:
    """Run every shard that is left. Cancelling this kills the worker at once.

    `on_start` is told the process id of each started worker; `on_source` what it works with, and
    may raise; `on_shard` keeps a shard; `on_death` counts a worker that died. A shard counts as
    finished when `on_shard` has returned.

    Raises:
        RemoteError: the worker's own.
        FendError: (`audit_worker_died`) it died on the same shard once more than `MAX_RESTARTS`
            times.
    """
    finished = task.first_shard
    deaths = 0

    async def keep(shard: ShardDone) -> None:
        nonlocal finished, deaths
        await on_shard(shard)
        finished = shard.number + 1
        deaths = 0

    while True:
        rest = task.model_copy(update={"first_shard": finished})
        exit_code = await _run_worker(rest, on_start, on_source, keep)
        if exit_code is None:
            return
        deaths += 1
        await on_death()
        if deaths > MAX_RESTARTS:
            raise FendError(
                f"the audit's process died {deaths} times in a row after {finished} finished "
                f"shards (the last time with {_exit_reason(exit_code)}); the service's log may say "
                "why. If memory ran out, try a smaller shard_size",
                code="audit_worker_died",
            )
        structlog.get_logger().warning(
            "audit worker died", model=task.spec.model, exit_code=exit_code, deaths=deaths
        )
        await asyncio.sleep(RESTART_DELAY_S * deaths)


async def _run_worker(
    task: Task,
    on_start: Callable[[int], None],
    on_source: Callable[[Source], Awaitable[None]],
    on_shard: Callable[[ShardDone], Awaitable[None]],
) -> int | None:
    """One worker's life: None when it did everything, else the code with which it died."""
    async with worker_process("audit", task.priority, task.model_dump_json()) as worker:
        on_start(worker.pid)
        async for message in said_by(worker, MESSAGE):
            if isinstance(message, Opened):
                await on_source(message.source)
            elif isinstance(message, ShardDone):
                await on_shard(message)
            elif isinstance(message, Done):
                return None
        return await worker.wait()


def _exit_reason(exit_code: int) -> str:
    return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
