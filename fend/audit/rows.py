"""The raw results of an audit, from which reports are rendered: one JSON object a line."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

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
    """Of the classifier alone."""
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
    """Of the model that the gradient went through, which for grey_box is not what is served."""
    answer: int | None
    """Of the whole pipeline: what is judged."""
    confidence: float | None
    undefended_answer: int | None
    undefended_confidence: float | None
    distance: float
    """Of the perturbation, in the threat model's norm."""


class CostRow(BaseModel, frozen=True, extra="forbid"):
    """What one attack cost on one shard, in images that went through the attacked model."""

    kind: Literal["cost"] = "cost"
    shard: int
    knowledge: Knowledge
    attack: int
    forward_passes: int
    backward_passes: int


Row = Annotated[CleanRow | AttackRow | CostRow, Field(discriminator="kind")]

ROWS: TypeAdapter[list[Row]] = TypeAdapter(list[Row])
"""Reads and writes rows as a JSON array."""
