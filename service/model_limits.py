"""How much one model takes on at a time."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


class ModelLimits(BaseModel):
    """What is other for one model than the settings of the same names say for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue_size: int | None = Field(default=None, ge=1)
    max_batch: int | None = Field(default=None, ge=1)
    request_timeout_s: float | None = Field(default=None, gt=0)


@dataclass(frozen=True)
class Limits:
    """What holds for one model."""

    queue_size: int
    """Images that may be in the works at a time."""
    max_batch: int
    """Images that go through the model at once."""
    request_timeout_s: float
    """Time for one answer."""
