"""What a worker process does for an audit: attack the shards that are left, in order.

Pure but for what it is told and tells: kill it at any time.
"""

import errno
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fend.audit import ROWS, AuditJob, Inline, OpenAudit, Row, Shard, Source, run_audit
from fend.datasets import ImageSet
from fend.datasets.pictures import Tell, quiet
from fend.errors import Conflict
from fend.images import InputSpec
from service.audits.messages import MESSAGE, Done, Message, Opened, ShardDone, Task
from service.audits.tally import tally_of
from service.audits.uploads.uploaded_set import UploadedSet
from service.state.trouble import StateUnavailable


def run(text: str, send_line: Callable[[bytes], None]) -> None:
    """Carry out a `Task`, given as JSON; sends what it works with, each shard, and its end.

    Raises:
        FendError: it cannot go on, and would not another time either.
    """

    def send(message: Message) -> None:
        send_line(MESSAGE.dump_json(message))

    torch.set_num_threads(1)
    task = Task.model_validate_json(text)
    run_audit(_job(task), Inline(), _Messages(task, send))
    send(Done())


class _Messages:
    """The `Keep` of a worker: its parent has the shards before the first, and keeps the others."""

    def __init__(self, task: Task, send: Callable[[Message], None]) -> None:
        self._task = task
        self._send = send

    def begin(self, source: Source, _shards: Sequence[Shard], /) -> Collection[int]:
        """See `fend.audit.Keep`."""
        self._send(Opened(source=source))
        return range(self._task.first_shard)

    def add(self, shard: Shard, rows: list[Row]) -> None:
        """See `fend.audit.Keep`."""
        self._send(
            ShardDone(
                number=shard.number,
                images=len(shard.indices),
                tally=tally_of(self._task.spec, rows),
                rows=ROWS.dump_json(rows).decode(),
            )
        )


@dataclass(frozen=True)
class _Job(AuditJob):
    """An audit of an accepted version of a model, maybe on images that were uploaded."""

    model_version: str = ""
    uploaded: Path | None = None

    def open(
        self, on_making: Callable[[Path], None] = lambda _: None, tell: Tell = quiet
    ) -> OpenAudit:
        """As any audit, but checks that the models and images are those that were accepted."""
        opened = self._with_room(on_making, tell)
        version = opened.bundle.manifest.version
        if version != self.model_version:
            raise Conflict(
                f"the audit was accepted for {self.spec.model} {self.model_version}, but "
                f"{version} is on disk now; start the audit again",
                code="audit_inputs_changed",
            )
        return opened

    def images(self, takes: InputSpec, tell: Tell) -> ImageSet:
        """The library knows nothing of uploads."""
        if self.uploaded is None:
            return super().images(takes, tell)
        return UploadedSet.read(self.uploaded).load()

    def _with_room(self, on_making: Callable[[Path], None], tell: Tell) -> OpenAudit:
        """A surrogate that is trained may find no room on the disk."""
        try:
            return super().open(on_making, tell)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StateUnavailable(
                f"the surrogate cannot be kept ({error.strerror}); make room on the disk of "
                "FEND_STATE_DIR and start the audit again"
            ) from error


def _job(task: Task) -> AuditJob:
    return _Job(
        task.spec,
        task.bundle_dir,
        task.data_dir,
        task.device,
        task.models_dir,
        task.surrogates_dir,
        model_version=task.model_version,
        uploaded=task.uploaded,
    )
