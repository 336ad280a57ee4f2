"""What the routes answer."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from fend.audit.report import Share
from fend.images import InputSpec
from fend.threat import ThreatModel


class ModelComputing(BaseModel):
    """How a model is computed, in float32; measured when it was loaded."""

    engine: Literal["openvino", "torchscript", "torch", "cuda_graphs"]
    threads: int = Field(description="Over which one operation is spread on a CPU.")
    max_batch: int = Field(description="Images that go through the model at once.")


class ModelSummary(BaseModel):
    """One line of the list of models."""

    name: str
    available: bool
    default: bool
    version: str | None = None
    labels: list[str] | None = None
    input: InputSpec | None = None
    denoiser: str | None = Field(default=None, description="Architecture of the denoiser.")
    classifier: str | None = Field(default=None, description="Architecture of the classifier.")
    computing: ModelComputing | None = None
    sigma: float | None = Field(
        default=None,
        description="Standard deviation of the noise that answers are certified with, by "
        "certify=true; null where they cannot be.",
    )
    refused: str | None = Field(
        default=None, description="The code for which the bundle was refused."
    )


class LastAudit(BaseModel):
    """What the newest finished audit of a model says."""

    id: str
    model_version: str = Field(description="The version that was attacked.")
    dataset: str
    threat: ThreatModel
    finished_at: datetime | None
    verdict: str
    clean: Share
    worst_case: Share


class ModelDetail(ModelSummary):
    """All that is known of a model."""

    card: str | None = Field(default=None, description="The model card, Markdown.")
    about: dict[str, Any] | None = Field(
        default=None, description="Where it comes from and what was measured."
    )
    last_audit: LastAudit | None = None


class ModelList(BaseModel):
    """Every model, serving or refused."""

    models: list[ModelSummary]


class Health(BaseModel):
    """The state of the process."""

    status: Literal["alive", "ready"]
    degraded: str | None = Field(
        default=None, description="What does not work though images are answered, and what to do."
    )
