"""What the routes answer."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fend.audit.report import Share
from fend.images import InputSpec
from fend.threat import ThreatModel


class ModelRef(BaseModel):
    """Which model answered: the same version always gives the same answer."""

    name: str
    version: str


class Prediction(BaseModel):
    """A label and how sure the model is of it, 0 to 1."""

    label: str
    index: int
    confidence: float


class RankedLabel(BaseModel):
    """One of the most probable labels."""

    label: str
    index: int
    probability: float


class Suspicion(BaseModel):
    """How far the answers with and without the denoiser disagree. A signal, not a defence."""

    score: float
    threshold: float = Field(description="At most 1 % of clean validation images are above it.")
    flagged: bool


class InputReport(BaseModel):
    """What was sent and what was done to it before the model saw it."""

    format: Literal["png", "jpeg", "webp", "bmp", "tensor"]
    size_px: tuple[int, int] = Field(description="Height and width as sent.")
    resized: bool = Field(description="Whether it was scaled or padded.")
    inverted: bool = Field(description="Whether dark on light was turned into light on dark.")


class Classification(BaseModel):
    """The answer to one image."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": {"name": "mnist", "version": "sha256:" + "4f" * 32},
                    "label": "7",
                    "index": 7,
                    "confidence": 0.998,
                    "top_k": [
                        {"label": "7", "index": 7, "probability": 0.998},
                        {"label": "1", "index": 1, "probability": 0.001},
                    ],
                    "undefended": {"label": "7", "index": 7, "confidence": 0.991},
                    "suspicion": {"score": 0.004, "threshold": 0.31, "flagged": False},
                    "input": {
                        "format": "png",
                        "size_px": [280, 280],
                        "resized": True,
                        "inverted": False,
                    },
                }
            ]
        }
    )

    model: ModelRef
    label: str
    index: int
    confidence: float
    top_k: list[RankedLabel] = Field(description="Most probable first.")
    undefended: Prediction = Field(description="The answer without the denoiser.")
    suspicion: Suspicion
    input: InputReport
    denoised: str | None = Field(
        default=None,
        description="With include=denoised: the cleaned image as a data URL of a PNG.",
    )


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
