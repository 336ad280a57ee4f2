"""`run_audit`: the same rows wherever it runs, resumed where it was stopped, cancelled at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from fend.attacks import FGSM, PGD
from fend.audit import (
    AuditJob,
    AuditSpec,
    Inline,
    KeepInFolder,
    KeepInMemory,
    Processes,
    Row,
    Shard,
    audit_report,
    run_audit,
)


@pytest.fixture
def job(tiny_bundle_dir: Path) -> AuditJob:
    spec = AuditSpec(
        model="mnist", dataset="rendered-digits", attacks=(FGSM(),), samples=9, shard_size=2,
        sanity_samples=0, examples=2,
    )  # fmt: skip
    return AuditJob(spec, tiny_bundle_dir / "mnist")


def endless(job: AuditJob) -> AuditJob:
    """The job with attacks that take hours."""
    changes = {"attacks": (PGD(steps=10_000, early_stop=False),), "shard_size": 1}
    return AuditJob(job.spec.model_copy(update=changes), job.bundle_dir)


def test_the_executor_changes_no_row(job: AuditJob) -> None:
    kept = {}
    for executor in (Inline(), Processes(2)):
        told: list[tuple[int, int]] = []
        keep = KeepInMemory(lambda told=told: lambda *progress: told.append(progress))
        run_audit(job, executor, keep)
        assert (told[0], told[-1], len(told)) == ((0, 9), (9, 9), 6)
        kept[executor] = keep.rows()
    alone, together = kept.values()
    assert together == alone


class Failing(KeepInFolder):
    """A disk that is full after some shards."""

    room = 2

    def add(self, shard: Shard, rows: list[Row]) -> None:
        if not self.room:
            raise OSError("full")
        self.room -= 1
        super().add(shard, rows)


def test_a_stopped_audit_goes_on_from_its_finished_shards(job: AuditJob, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"):
        run_audit(job, Inline(), Failing(tmp_path))
    finished = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(finished) == {"shard-00000.json", "shard-00001.json"}
    report = audit_report(job, keep=KeepInFolder(tmp_path))
    assert report == audit_report(job)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in finished} == finished


class Enough(Exception):
    pass


@pytest.mark.parametrize("executor", [Inline(), Processes(2)], ids=lambda item: type(item).__name__)
def test_a_run_is_cancelled_within_one_step_of_an_attack(job: AuditJob, executor: Any) -> None:
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise Enough

    with pytest.raises(Enough):  # and not after hours
        run_audit(endless(job), executor, KeepInMemory(), stop=stop)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes in /proc")
def test_processes_end_with_the_one_that_started_them(job: AuditJob, tmp_path: Path) -> None:
    """A process of a pool whose parent is gone would otherwise wait for ever."""
    spec = tmp_path / "spec.json"
    spec.write_text(endless(job).spec.model_dump_json())
    code = """
import sys
from pathlib import Path
from fend.audit import AuditJob, AuditSpec, KeepInMemory, Processes, run_audit
if __name__ == "__main__":
    spec = AuditSpec.model_validate_json(Path(sys.argv[1]).read_text())
    run_audit(AuditJob(spec, Path(sys.argv[2])), Processes(2), KeepInMemory())
"""
    program = tmp_path / "program.py"
    program.write_text(code)
    process = subprocess.Popen(
        [sys.executable, program, spec, job.bundle_dir], start_new_session=True
    )
    try:
        until(lambda: len(_in_session(process.pid)) >= 3)
        process.kill()
        process.wait()
        until(lambda: not _in_session(process.pid))
    finally:
        for left in _in_session(process.pid):
            os.kill(left, signal.SIGKILL)


def _in_session(session: int) -> list[int]:
    """The processes of a session, but for those that have ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(own) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found
