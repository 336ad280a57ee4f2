"""What the service and the processes that work beside it tell each other, as JSON."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from fend.audit import AuditSpec, Source
from fend.errors import FendError, RemoteError
from service.audits.tally import Tally
from service.settings import Priority


class Task(BaseModel, frozen=True):
    """What a worker needs to know."""

    spec: AuditSpec
    model_version: str
    bundle_dir: Path
    models_dir: Path
    surrogates_dir: Path
    """Where surrogates that were made are kept."""
    data_dir: Path | None
    uploaded: Path | None
    """The folder of the uploaded set that `spec.dataset` names; None where it names another."""
    device: str
    priority: Priority
    first_shard: int
    """Shards run in order; those before this one are done."""


class Opened(BaseModel, frozen=True):
    """The models and the images are loaded."""

    kind: Literal["opened"] = "opened"
    source: Source


class ShardDone(BaseModel, frozen=True):
    """A shard is finished."""

    kind: Literal["shard_done"] = "shard_done"
    number: int
    images: int
    tally: Tally
    rows: str
    """As `fend.audit.ROWS` writes them: the service keeps them without reading them."""


class Failed(BaseModel, frozen=True):
    """It cannot go on, and would not another time either."""

    kind: Literal["failed"] = "failed"
    code: str
    status: int
    message: str

    @classmethod
    def of(cls, error: FendError) -> "Failed":
        """Says what the error says."""
        return cls(code=error.code, status=error.status, message=str(error))

    def error(self) -> RemoteError:
        """The error again, on the other side."""
        return RemoteError(self.message, code=self.code, status=self.status)


class Done(BaseModel, frozen=True):
    """Every shard is done."""

    kind: Literal["done"] = "done"


Message = Annotated[Opened | ShardDone | Failed | Done, Field(discriminator="kind")]
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)
