"""Where an audit's shards are attacked: in this process, or in several. The rows are the same.

Another executor (a cluster's, say) is one more class with `run`; `attack_shard` is what its tasks
call.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Protocol

import torch

from fend.audit.rows import Row
from fend.audit.work.opened import AuditJob, OpenAudit
from fend.audit.work.shard import run_shard
from fend.audit.work.shards import Shard

STOP_POLL_S = 0.1

Finished = Generator[tuple[Shard, list[Row]], None, None]
"""Shards with their rows. Closing it ends the attacks on the others."""


class Executor(Protocol):
    """Attacks shards."""

    def run(
        self, job: AuditJob, opened: OpenAudit, shards: Sequence[Shard], stop: Callable[[], None], /
    ) -> Finished:
        """Each shard with its rows, in whatever order they are finished.

        `opened` is `job`, opened in this process. `stop` is called often, and raises to cancel:
        then, and when the iterator is closed early, every attack ends within one step.
        """
        ...


class Inline:
    """Attacks in this process, one shard after another."""

    def run(
        self,
        _job: AuditJob,
        opened: OpenAudit,
        shards: Sequence[Shard],
        stop: Callable[[], None],
        /,
    ) -> Finished:
        """See `Executor`."""
        for shard in shards:
            yield shard, run_shard(opened, shard, stop)


class Processes:
    """Attacks in several processes, each of which opens the audit for itself.

    They end with this process, even if it is killed.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def run(
        self,
        job: AuditJob,
        _opened: OpenAudit,
        shards: Sequence[Shard],
        stop: Callable[[], None],
        /,
    ) -> Finished:
        """See `Executor`."""
        if not shards:
            return
        with process_pool(min(self._workers, len(shards))) as pool:
            left = {pool.submit(attack_shard, job, shard): shard for shard in shards}
            while left:
                finished, _ = wait(left, timeout=STOP_POLL_S, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield left.pop(future), future.result()
                stop()


def executor_for(workers: int) -> Executor:
    """The executor for so many processes; 1: this one."""
    return Inline() if workers == 1 else Processes(workers)


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that compute on one thread each.

    They end at once where the block raises, or this process ends, even if it is killed.
    """
    context = multiprocessing.get_context("spawn")
    # Only this process has the writing end, so the other ends when it is closed or we are gone.
    reader, writer = context.Pipe(duplex=False)
    with reader, writer:
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin_worker, initargs=(reader,)
        )
        with pool:
            try:
                yield pool
            except BaseException:
                writer.close()
                pool.shutdown(cancel_futures=True)
                raise


def attack_shard(job: AuditJob, shard: Shard) -> list[Row]:
    """The rows of a shard, in a process that may not have opened the audit yet."""
    return run_shard(_open(job), shard)


@lru_cache(maxsize=1)
def _open(job: AuditJob) -> OpenAudit:
    """Opened once in each process, not once for each shard."""
    return job.open()


def _begin_worker(parent: Connection) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Connection) -> None:
    with suppress(EOFError, OSError):
        parent.recv_bytes()  # nothing is ever sent
    os._exit(1)
