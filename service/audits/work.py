"""What a worker process does for an audit: attack the shards that are left, in order.

Pure but for what it is told and tells: kill it at any time.
"""

import dataclasses
import errno
from collections.abc import Callable

import torch

from fend.audit import ROWS, OpenAudit, open_audit, plan, run_shard, source_of
from fend.errors import FendError
from service.audits.messages import (
    MESSAGE,
    AuditInputsChanged,
    Done,
    Failed,
    Message,
    Opened,
    ShardDone,
    Task,
)
from service.audits.tally import tally_of
from service.datasets.uploaded_set import UploadedSet
from service.state.database import StateUnavailable


def run(text: str, send_line: Callable[[bytes], None]) -> None:
    """Carry out a `Task`, given as JSON; says what it works with, each shard, and how it ended."""

    def send(message: Message) -> None:
        send_line(MESSAGE.dump_json(message))

    torch.set_num_threads(1)
    try:
        _work(Task.model_validate_json(text), send)
    except FendError as error:
        send(Failed(code=error.code, message=str(error)))
    else:
        send(Done())


def _work(task: Task, send: Callable[[Message], None]) -> None:
    opened = _open_audit(task)
    manifest = opened.bundle.manifest
    if manifest.version != task.model_version:
        raise AuditInputsChanged(
            f"the audit was accepted for {task.spec.model} {task.model_version}, but "
            f"{manifest.version} is on disk now; start the audit again"
        )
    send(Opened(source=source_of(opened)))
    for shard in plan(task.spec, opened.image_set)[task.first_shard :]:
        rows = run_shard(opened, shard)
        send(
            ShardDone(
                number=shard.number,
                images=len(shard.indices),
                tally=tally_of(task.spec, rows),
                rows=ROWS.dump_json(rows).decode(),
            )
        )


def _open_audit(task: Task) -> OpenAudit:
    """As `_open`; a surrogate that was trained may find no room on the disk."""
    try:
        return _open(task)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StateUnavailable(
            f"the surrogate cannot be kept ({error.strerror}); make room on the disk of "
            "FEND_STATE_DIR and start the audit again"
        ) from error


def _open(task: Task) -> OpenAudit:
    """The library knows nothing of uploads: it reads the file, and we put the name right."""
    uploaded = None if task.uploaded is None else UploadedSet.read(task.uploaded)
    readable = (
        task.spec if uploaded is None else task.spec.model_copy(update={"dataset": uploaded.spec})
    )
    opened = open_audit(
        readable, task.bundle_dir, task.data_dir, task.device,
        models_dir=task.models_dir, surrogates_dir=task.surrogates_dir,
    )  # fmt: skip
    if uploaded is None:
        return opened
    image_set = uploaded.checked(opened.image_set)
    return dataclasses.replace(opened, spec=task.spec, image_set=image_set)
