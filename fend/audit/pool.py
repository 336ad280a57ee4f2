"""Shards over several processes. The rows are those of one process, only sooner."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from fend.audit.rows import Row
from fend.audit.run import Shard, open_audit, run_shard
from fend.audit.spec import AuditSpec
from fend.bundle import Bundle
from fend.datasets import ImageSet


@dataclass(frozen=True)
class Job:
    """What a process needs to open an audit for itself: nothing large is sent to it."""

    spec: AuditSpec
    bundle_dir: Path
    data_dir: Path | None
    device: str


def run_shards(
    job: Job, shards: list[Shard], workers: int, on_shard: Callable[[Shard], None]
) -> list[Row]:
    """Run `shards` on `workers` processes (1: this one); `on_shard` is told of each that is done.

    Each process computes on one thread, as the service's audits do, so that float rounding is the
    same however many there are.
    """
    rows: list[Row] = []
    if workers == 1:
        for shard in shards:
            rows += _run(job, shard)
            on_shard(shard)
        return rows
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(shards)), mp_context=context) as pool:
        futures = {pool.submit(_run, job, shard): shard for shard in shards}
        try:
            for future in as_completed(futures):
                rows += future.result()
                on_shard(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return rows


def _run(job: Job, shard: Shard) -> list[Row]:
    torch.set_num_threads(1)
    bundle, image_set = _open(job)
    return run_shard(job.spec, bundle, image_set, shard)


@lru_cache(maxsize=1)
def _open(job: Job) -> tuple[Bundle, ImageSet]:
    """Opened once in each process, not once for each shard."""
    return open_audit(job.spec, job.bundle_dir, job.data_dir, job.device)
