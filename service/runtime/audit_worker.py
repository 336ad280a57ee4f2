"""The process that attacks: started by `executor.py`, at low priority, killed at any time.

Its task is its only argument. It writes messages to standard output, one JSON object a line: what
it works with, each finished shard, and how it ended. It keeps nothing: its parent does. Nothing
comes by standard input; when it closes, the parent is gone, and so is this process at once.
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, Field, TypeAdapter

from fend.audit import AuditSpec, Row, Source, open_audit, plan, run_shard, source_of
from fend.errors import FendError

NICENESS = 10
"""Serving goes first wherever both want the processor."""


class AuditInputsChanged(FendError):
    """What is on disk is not what the audit was accepted for, or began with."""

    code: ClassVar[str] = "audit_inputs_changed"


class Task(BaseModel, frozen=True):
    """What a worker needs to know."""

    spec: AuditSpec
    model_version: str
    bundle_dir: Path
    data_dir: Path | None
    device: str
    first_shard: int
    """Shards run in order; those before this one are done."""


class Opened(BaseModel, frozen=True):
    """The model and the images are loaded."""

    kind: Literal["opened"] = "opened"
    source: Source


class ShardDone(BaseModel, frozen=True):
    kind: Literal["shard_done"] = "shard_done"
    number: int
    images: int
    rows: list[Row]


class Failed(BaseModel, frozen=True):
    """It cannot go on, and would not another time either."""

    kind: Literal["failed"] = "failed"
    code: str
    message: str


class Done(BaseModel, frozen=True):
    """Every shard is done."""

    kind: Literal["done"] = "done"


Message = Annotated[Opened | ShardDone | Failed | Done, Field(discriminator="kind")]
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


def main() -> None:
    """The whole life of a worker."""
    os.nice(NICENESS)
    torch.set_num_threads(1)
    # What libraries print must not end up between the messages.
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_exit_with, args=(sys.stdin.fileno(),), daemon=True).start()
    task = Task.model_validate_json(sys.argv[1])

    def send(message: Message) -> None:
        messages.write(MESSAGE.dump_json(message) + b"\n")
        messages.flush()

    try:
        work(task, send)
    except FendError as error:
        send(Failed(code=error.code, message=str(error)))
    else:
        send(Done())


def work(task: Task, send: Callable[[Message], None]) -> None:
    """Run the shards that are left, in order."""
    bundle, image_set = open_audit(task.spec, task.bundle_dir, task.data_dir, task.device)
    if bundle.manifest.version != task.model_version:
        raise AuditInputsChanged(
            f"the audit was accepted for {task.spec.model} {task.model_version}, but "
            f"{bundle.manifest.version} is on disk now; start the audit again"
        )
    send(Opened(source=source_of(bundle, image_set)))
    for shard in plan(task.spec, image_set)[task.first_shard :]:
        rows = run_shard(task.spec, bundle, image_set, shard)
        send(ShardDone(number=shard.number, images=len(shard.indices), rows=rows))


def _exit_with(parent: int) -> None:
    """End this process as soon as the other end of `parent` is closed."""
    while os.read(parent, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
