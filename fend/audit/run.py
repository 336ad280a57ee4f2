"""The one way to run an audit, whoever asks for it and wherever it is computed."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import torch
from pydantic import ValidationError

from fend.audit.executors import Executor, Inline
from fend.audit.report import Report
from fend.audit.report.build import build_report
from fend.audit.rows import ROWS, Row, Source
from fend.audit.work.opened import AuditJob, OpenAudit, source_of
from fend.audit.work.shards import Shard, shards_of
from fend.datasets.pictures import Tell, quiet
from fend.files import replace_atomically

OnProgress = Callable[[int, int], None]
"""Called with the number of images done so far, and of all of them."""


class Keep(Protocol):
    """Where the rows of finished shards go, so that a stopped audit goes on from them."""

    def begin(self, source: Source, shards: Sequence[Shard], /) -> Collection[int]:
        """Called with what is audited; returns the numbers of the shards that are finished already.

        It may raise where these were finished with another source.
        """
        ...

    def add(self, shard: Shard, rows: list[Row]) -> None:
        """A shard is finished. Shards come in whatever order they are finished."""
        ...


class KeepWithRows(Keep, Protocol):
    """A `Keep` that also gives the rows back."""

    def rows(self) -> list[Row]:
        """The rows of every finished shard, in the order of the shards."""
        ...


class KeepInMemory:
    """Keeps rows as long as it lives.

    `on_begin` is called when the audit begins and gives what is then called with the images done,
    and all of them.
    """

    def __init__(self, on_begin: Callable[[], OnProgress] = lambda: lambda *_: None) -> None:
        self._on_begin = on_begin
        self._rows: dict[int, list[Row]] = {}
        self.done = self.total = 0
        """Images whose shard is finished, and all of them."""

    def begin(self, _source: Source, shards: Sequence[Shard], /) -> Collection[int]:
        """See `Keep`."""
        self.total = sum(len(shard.indices) for shard in shards)
        self._on_progress = self._on_begin()
        self._on_progress(self.done, self.total)
        return self._rows.keys()

    def add(self, shard: Shard, rows: list[Row]) -> None:
        """See `Keep`."""
        self._rows[shard.number] = rows
        self.done += len(shard.indices)
        self._on_progress(self.done, self.total)

    def rows(self) -> list[Row]:
        """See `KeepWithRows`."""
        return [row for number in sorted(self._rows) for row in self._rows[number]]


class KeepInFolder(KeepInMemory):
    """Also keeps each shard's rows as a file of a folder, which belongs to one audit."""

    def __init__(
        self, folder: Path, on_begin: Callable[[], OnProgress] = lambda: lambda *_: None
    ) -> None:
        super().__init__(on_begin)
        self.folder = folder

    def begin(self, source: Source, shards: Sequence[Shard], /) -> Collection[int]:
        """See `Keep`."""
        for shard in shards:
            path = self._path(shard.number)
            with suppress(FileNotFoundError, ValidationError):  # then it is attacked again
                self._rows[shard.number] = ROWS.validate_json(path.read_bytes())
                self.done += len(shard.indices)
        return super().begin(source, shards)

    def add(self, shard: Shard, rows: list[Row]) -> None:
        """See `Keep`."""
        replace_atomically(self._path(shard.number), ROWS.dump_json(rows))
        super().add(shard, rows)

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.json"


def run_audit(
    job: AuditJob,
    executor: Executor,
    keep: Keep,
    *,
    stop: Callable[[], None] = lambda: None,
    on_making: Callable[[Path], None] = lambda _: None,
    tell: Tell = quiet,
    on_opened: Callable[[OpenAudit], None] = lambda _: None,
) -> Source:
    """Attack every shard of an audit that `keep` does not have yet; returns what was audited.

    `stop` raises to cancel, which takes at most one step of an attack. `on_making` is called
    before a surrogate is made, `tell` of the images (see `fend.datasets.load`), `on_opened` before
    anything is attacked.

    Raises:
        FendError: as `open_audit`, as `keep`, and Invalid (`attack_invalid`).
    """
    with one_thread():
        opened = job.open(on_making, tell)
        source = source_of(opened)
        on_opened(opened)
        shards = shards_of(job.spec, opened.image_set, opened.images_at_once)
        finished = keep.begin(source, shards)
        left = [shard for shard in shards if shard.number not in finished]
        with closing(executor.run(job, opened, left, stop)) as work:
            for shard, rows in work:
                keep.add(shard, rows)
    return source


def audit_report(
    job: AuditJob, executor: Executor | None = None, keep: KeepWithRows | None = None
) -> Report:
    """`run_audit`, and the report of its rows; by default in this process, kept in memory."""
    keep = KeepInMemory() if keep is None else keep
    source = run_audit(job, Inline() if executor is None else executor, keep)
    return build_report(job.spec, source, keep.rows())


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes on one thread of a CPU.

    So float rounding is the same in this process, in one of several, and in the service's.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
