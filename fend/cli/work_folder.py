"""The finished shards of `fend audit`, so that the same command goes on where one was stopped."""

import hashlib
import re
import shutil
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fend.audit.rows import Row, Source
from fend.audit.run import KeepInFolder, OnProgress
from fend.audit.spec import AuditSpec
from fend.audit.work.shards import Shard

NAME = re.compile("[0-9a-f]{32}")
"""Of the folder of an audit."""

KEPT = 5
"""Stopped audits that are kept; an older one is deleted when another begins."""


class WorkFolder(KeepInFolder):
    """Keeps each audit in a folder of its own, named by all that decides its rows.

    Where the disk takes no more, or takes nothing at all, the audit goes on in memory.
    """

    def __init__(self, root: Path, spec: AuditSpec, on_begin: Callable[[], OnProgress]) -> None:
        super().__init__(root, on_begin)
        self._root, self._spec = root, spec
        self._trouble: OSError | None = None

    def begin(self, source: Source, shards: Sequence[Shard], /) -> Collection[int]:
        """See `Keep`."""
        decides = self._spec.model_dump_json(exclude={"preset"}) + source.model_dump_json()
        self.folder = self._root / hashlib.sha256(decides.encode()).hexdigest()[:32]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.touch()
            others = [
                path for path in self._root.iterdir()
                if NAME.fullmatch(path.name) and path != self.folder
            ]  # fmt: skip
            for path in sorted(others, key=lambda path: path.stat().st_mtime)[: 1 - KEPT]:
                shutil.rmtree(path, ignore_errors=True)
        except OSError as error:
            self._give_up(error)
        finished = super().begin(source, shards)
        if self.done:
            _say(f"{self.done} of {self.total} images were done before; the audit goes on")
        return finished

    def add(self, shard: Shard, rows: list[Row]) -> None:
        """See `Keep`."""
        if self._trouble is None:
            try:
                return super().add(shard, rows)
            except OSError as error:
                self._give_up(error)
        return super(KeepInFolder, self).add(shard, rows)

    def forget(self) -> None:
        """Delete the folder: the report is where it should be."""
        if self.folder != self._root:
            shutil.rmtree(self.folder, ignore_errors=True)

    def tell_how_to_go_on(self) -> None:
        """Say on standard error what is kept."""
        if self.done and self._trouble is None:
            _say(
                f"\n{self.done} of {self.total} images are done and kept in {self.folder}; "
                "the same command goes on from there"
            )
        else:
            _say("\nStopped before anything was finished that could be kept")

    def _give_up(self, error: OSError) -> None:
        self._trouble = error
        _say(f"{self.folder} cannot be written to ({error.strerror}): a stop would lose the work")


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM ends the work as Ctrl-C does, but with the exit code of SIGTERM."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
