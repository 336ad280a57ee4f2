"""What the supervisor and a worker say to each other: JSON lines over a pair of sockets.

    supervisor -> worker    its `Order`; later the number of the signal that stops all
    worker -> supervisor    `Ready`, or `Failed` before its end

When one end dies the other reads the end of the file.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter


class Order(BaseModel, frozen=True):
    """All that a worker needs to know."""

    settings: dict[str, Any]
    index: int
    size: int
    folder: Path
    own_key: str = Field(repr=False)
    replaces: bool
    """Whether a worker with this index died before."""


class Ready(BaseModel, frozen=True):
    """It serves."""

    kind: Literal["ready"] = "ready"
    lines: list[str]
    """What to say of its models on the terminal."""


class Failed(BaseModel, frozen=True):
    """It cannot serve, and says why."""

    kind: Literal["failed"] = "failed"
    code: str
    message: str


NEWS: TypeAdapter[Ready | Failed] = TypeAdapter(
    Annotated[Ready | Failed, Field(discriminator="kind")]
)
