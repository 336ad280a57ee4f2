"""Shards over several processes. The rows are those of one process, only sooner."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from fend.audit.opened import OpenAudit, open_audit
from fend.audit.rows import Row
from fend.audit.run import run_shard
from fend.audit.shards import Shard
from fend.audit.spec import AuditSpec


@dataclass(frozen=True)
class Job:
    """What a process needs to open an audit for itself: nothing large is sent to it."""

    spec: AuditSpec
    bundle_dir: Path
    data_dir: Path | None
    device: str
    models_dir: Path | None = None
    surrogates_dir: Path | None = None


def run_shards(
    job: Job, shards: list[Shard], workers: int, on_shard: Callable[[Shard], None]
) -> list[Row]:
    """Run `shards` on `workers` processes (1: this one); `on_shard` is told of each that is done.

    The rows come in the order of the shards, whichever ends first. Open the audit once before:
    what it lacks, such as a surrogate, would be made in each process.

    Each process computes on one thread, as the service's audits do, so that float rounding is the
    same however many there are.
    """
    done: dict[int, list[Row]] = {}
    if workers == 1:
        for shard in shards:
            done[shard.number] = _run(job, shard)
            on_shard(shard)
        return _in_order(done)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(shards)), mp_context=context) as pool:
        futures = {pool.submit(_run, job, shard): shard for shard in shards}
        try:
            for future in as_completed(futures):
                shard = futures[future]
                done[shard.number] = future.result()
                on_shard(shard)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return _in_order(done)


def _in_order(done: dict[int, list[Row]]) -> list[Row]:
    return [row for number in sorted(done) for row in done[number]]


def _run(job: Job, shard: Shard) -> list[Row]:
    torch.set_num_threads(1)
    return run_shard(_open(job), shard)


@lru_cache(maxsize=1)
def _open(job: Job) -> OpenAudit:
    """Opened once in each process, not once for each shard."""
    return open_audit(
        job.spec,
        job.bundle_dir,
        job.data_dir,
        job.device,
        models_dir=job.models_dir,
        surrogates_dir=job.surrogates_dir,
    )
