"""The raw results of an audit, from which reports are made: one JSON object a line."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from fend.threat import Knowledge


class CleanRow(BaseModel, frozen=True, extra="forbid"):
    """The answers on one image as it is.

    An answer is a class index, or None where the logits held NaN or infinity: never a right one.
    """

    kind: Literal["clean"] = "clean"
    index: int
    """The image's place in the data set."""
    label: int
    answer: int | None
    confidence: float | None
    undefended_answer: int | None
    """Answer of the classifier alone."""
    undefended_confidence: float | None


class AttackRow(BaseModel, frozen=True, extra="forbid"):
    """The answers on one adversarial image, whatever model the attack was run against."""

    kind: Literal["attack"] = "attack"
    index: int
    label: int
    knowledge: Knowledge
    attack: int
    """The attack's place in the spec's list."""
    attack_name: str
    attacked_model_fooled: bool
    """Success on the model that the gradient went through: for grey_box not what is served."""
    answer: int | None
    """Answer of the whole pipeline: what is judged."""
    confidence: float | None
    undefended_answer: int | None
    undefended_confidence: float | None
    distance: float
    """Size of the perturbation, in the threat model's norm."""
    seen_fooled: bool
    """Some image that the attack asked about, inside the threat model, fooled the attacked model.
    With `attacked_model_fooled` False the attack lost what it had found (a silent success)."""
    zero_gradient: bool
    """Every gradient that the attack took of this image was exactly zero (False without any)."""
    broken_gradient: bool
    """Some gradient held NaN or infinity; it was taken as zero there."""
    late_gain: float | None
    """Share, 0..1, of the whole rise of the objective that came in the last tenth of the steps: a
    large one means that the attack had not finished. None where the attack has no such steps."""


class SkippedRow(BaseModel, frozen=True, extra="forbid"):
    """Not attacked (`AuditSpec.cascade`): an earlier line of this level had broken the image."""

    kind: Literal["skipped"] = "skipped"
    index: int
    label: int
    knowledge: Knowledge
    attack: int


class CostRow(BaseModel, frozen=True, extra="forbid"):
    """What one attack cost on one shard, in images that went through the attacked model."""

    kind: Literal["cost"] = "cost"
    shard: int
    knowledge: Knowledge
    attack: int
    forward_passes: int
    backward_passes: int


class CurveRow(BaseModel, frozen=True, extra="forbid"):
    """The white-box answer on one image at one epsilon of the curve."""

    kind: Literal["curve"] = "curve"
    index: int
    label: int
    epsilon: float
    answer: int | None
    undefended_answer: int | None
    """Answer of the classifier alone, attacked for itself at the same epsilon."""


class Probe(StrEnum):
    """What the sanity block tries on some images, apart from the audit's own attacks."""

    EPSILON_ZERO = "epsilon_zero"
    """`passed`: PGD with epsilon 0 left the answer as it was."""
    UNBOUNDED = "unbounded"
    """`passed`: PGD without a bound (0.5 in L-inf, its equivalent in L2) fooled the pipeline."""
    MORE_STEPS = "more_steps"
    """`passed`: PGD with twice the steps found nothing that the line's own had missed."""
    MORE_RESTARTS = "more_restarts"
    """`passed`: PGD with twice the restarts found nothing that the line's own had missed."""
    NOISE = "noise"
    """`passed`: no random point of the ball fooled the pipeline where white-box attacks failed."""
    UNDEFENDED = "undefended"
    """`passed`: PGD on the classifier alone fooled it."""
    REPEATED = "repeated"
    """`passed`: five passes gave the same logits; `value`: the largest difference."""
    LOGITS = "logits"
    """`passed`: the output is not a probability distribution."""
    STABLE = "stable"
    """`passed`: the loss hardly moves under tiny random steps; `value`: its relative change."""


class ProbeRow(BaseModel, frozen=True, extra="forbid"):
    """One probe on one image."""

    kind: Literal["probe"] = "probe"
    probe: Probe
    index: int
    passed: bool
    value: float | None = None


class ExampleRow(BaseModel, frozen=True, extra="forbid"):
    """One image and what an attack made of it, to look at: 8-bit PNGs in base64."""

    kind: Literal["example"] = "example"
    index: int
    knowledge: Knowledge
    attack: int
    clean_png: str
    adversarial_png: str
    denoised_png: str
    """What the denoiser makes of the adversarial image."""


class ServedRow(BaseModel, frozen=True, extra="forbid"):
    """An adversarial image, rounded to 8 bits and sent through the running service as a PNG."""

    kind: Literal["served"] = "served"
    index: int
    label: int
    knowledge: Knowledge
    attack: int
    answer: int | None
    """Answer of the pipeline in the audit, before rounding: as in the attack's own row."""
    served_answer: int | None


Row = Annotated[
    CleanRow | AttackRow | SkippedRow | CostRow | CurveRow | ProbeRow | ExampleRow | ServedRow,
    Field(discriminator="kind"),
]

ROWS: TypeAdapter[list[Row]] = TypeAdapter(list[Row])
"""Reads and writes rows as a JSON array."""


class Source(BaseModel):
    """What was audited, with what and where: the part of a report that no row holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    model_version: str
    surrogate: str | None = None
    """The attacker's own model, where a level of the audit needed one."""
    surrogate_version: str | None = None
    dataset: str
    dataset_digest: str
    label_names: tuple[str, ...]
    fend_version: str
    torch_version: str
    device: str
    randomised: bool = False
    """Whether the pipeline answers at random: its answers are then those of most of several
    passes (`work.judge`)."""
