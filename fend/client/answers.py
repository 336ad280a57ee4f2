"""The answer to one image: what the service sends, clients read, and `fend classify` prints.

Without torch, so that a client is quick to import.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from fend.bundles import Manifest


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelRef(_Answer):
    """Which model answered: the same version always gives the same answer."""

    name: str
    version: str


class Prediction(_Answer):
    """A label and how sure the model is of it, 0 to 1."""

    label: str
    index: int
    confidence: float


class RankedLabel(_Answer):
    """One of the most probable labels."""

    label: str
    index: int
    probability: float


class Suspicion(_Answer):
    """How far the answers with and without the denoiser disagree. A signal, not a defence."""

    score: float
    threshold: float = Field(description="At most 1 % of clean validation images are above it.")
    flagged: bool


class InputReport(_Answer):
    """What was sent and what was done to it before the model saw it."""

    format: Literal["png", "jpeg", "webp", "bmp", "tensor"]
    size_px: tuple[int, int] = Field(description="Height and width as sent.")
    resized: bool = Field(description="Whether it was scaled or padded.")
    inverted: bool = Field(description="Whether dark on light was turned into light on dark.")


class Certified(_Answer):
    """What the smoothed classifier answers: the label that the model gives most often to the image
    with Gaussian noise. It can differ from the label without noise."""

    label: str | None = Field(
        default=None, description="Missing where the classifier abstains: nothing is certified."
    )
    index: int | None = None
    abstained: bool
    radius_l2: float = Field(
        description="No change of the model's input whose L2 length, with pixels in [0, 1], is "
        "below this changes the label."
    )
    sigma: float = Field(description="Standard deviation of the noise.")
    samples: int = Field(description="Noisy images that were counted.")
    alpha: float = Field(description="How probable it is at most that the certificate is wrong.")
    seed: int = Field(description="Of the noise, drawn for this request.")


class Classification(_Answer):
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
    undefended: Prediction | None = Field(
        default=None, description="The answer without the denoiser; missing with compare=false."
    )
    suspicion: Suspicion | None = Field(default=None, description="Missing in the same way.")
    input: InputReport
    denoised: str | None = Field(
        default=None, description="With include=denoised: the cleaned image as a data URL of a PNG."
    )
    seen: str | None = Field(
        default=None,
        description="With include=seen: the image as the denoiser gets it, resized and prepared.",
    )
    certified: Certified | None = Field(
        default=None, description="With certify=true: up to where the answer provably holds."
    )


DEFAULT_TOP_K = 5


def classification(
    manifest: "Manifest",
    probabilities: Sequence[float],
    undefended_probabilities: Sequence[float] | None,
    suspicion: float | None,
    report: InputReport,
    top_k: int,
    denoised: str | None = None,
    certified: Certified | None = None,
    seen: str | None = None,
) -> Classification:
    """The answer of the bundle of `manifest`, whose classes both probabilities are of, in order.
    `undefended_probabilities` and `suspicion` are None where they are not compared."""
    labels, threshold = manifest.content.labels, manifest.content.suspicion.threshold
    # On a tie the first class, as argmax has it.
    ranked = sorted(range(len(labels)), key=lambda index: -probabilities[index])
    first = ranked[0]
    undefended = doubt = None
    if undefended_probabilities is not None and suspicion is not None:
        plain = max(range(len(labels)), key=undefended_probabilities.__getitem__)
        undefended = Prediction(
            label=labels[plain], index=plain, confidence=undefended_probabilities[plain]
        )
        doubt = Suspicion(score=suspicion, threshold=threshold, flagged=suspicion > threshold)
    return Classification(
        model=ModelRef(name=manifest.name, version=manifest.version),
        label=labels[first],
        index=first,
        confidence=probabilities[first],
        top_k=[
            RankedLabel(label=labels[index], index=index, probability=probabilities[index])
            for index in ranked[:top_k]
        ],
        undefended=undefended,
        suspicion=doubt,
        input=report,
        denoised=denoised,
        certified=certified,
        seen=seen,
    )
