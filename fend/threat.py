"""What an attacker may do (`ThreatModel`) and what an attacker knows (`Knowledge`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

if TYPE_CHECKING:
    from torch import Tensor

Norm = Literal["linf", "l2"]

MEASURE_TOLERANCE = 1e-6
"""Float32 rounding allowed on top of epsilon when a finished perturbation is measured."""


MOST_EPSILON = 10_000.0
"""Above the L2 distance between any two images that a classifier takes."""


def as_number(value: Any) -> Any:
    """A number as it is, and a fraction such as "8/255" as the number that it is.

    Raises:
        ValueError: it is text that is neither.
    """
    if isinstance(value, bool):
        raise ValueError("must be a number, or a fraction such as '8/255'")
    if not isinstance(value, str):
        return value
    try:
        parts = [float(part) for part in value.split("/")]
        number = parts[0] if len(parts) == 1 else parts[0] / parts[1]
    except (ValueError, ZeroDivisionError):
        parts = []
    if not 1 <= len(parts) <= 2:
        raise ValueError(f"{value!r} is no number, and no fraction such as '8/255'")
    return number


Distance = Annotated[
    float,
    Field(ge=0, le=MOST_EPSILON, allow_inf_nan=False),
    BeforeValidator(as_number),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number"}, {"type": "string"}],
            "description": "On the pixel scale 0..1; a fraction is taken as written.",
            "examples": [0.2, "8/255"],
        },
        mode="validation",
    ),
]
"""A length on the pixel scale: a number, or a fraction such as "8/255"."""


class Knowledge(StrEnum):
    """What the attacker has, and so which graph the gradient goes through (the paper, 3.1)."""

    BLACK_BOX = "black_box"
    """Nothing: a surrogate classifier of the attacker's own. The paper's zero knowledge."""
    GREY_BOX = "grey_box"
    """The classifier alone; the attacker does not know the denoiser. The paper's tables."""
    GREY_BOX_AWARE = "grey_box_aware"
    """Knowledge of a denoiser, without weights: a surrogate denoiser and classifier."""
    WHITE_BOX = "white_box"
    """Denoiser and classifier: the attacker knows everything. The headline of every report."""
    QUERY = "query"
    """Answers only, no gradient: the attack asks the whole pipeline."""


class ThreatModel(BaseModel, frozen=True, extra="forbid"):
    """A ball of radius `epsilon` around each image, intersected with the pixel box [0, 1].

    Images are float32 (N,C,H,W) in [0, 1]; `epsilon` is on that scale.
    """

    norm: Norm = "linf"
    epsilon: Distance

    def refusal(self, value: float, pixels: int | None = None) -> str | None:
        """Why `value` is too large for a distance in this norm; None where it is not.

        `pixels` is C*H*W; None, where it is not known, leaves L2 unchecked.
        """
        largest = 1.0 if self.norm == "linf" else math.sqrt(pixels or math.inf)
        if value <= largest:
            return None
        if self.norm == "linf":
            return (
                f"{value:g} is larger than 1, and pixels are in 0..1: if 8-bit steps are meant, "
                f'write "{value:g}/255"'
            )
        return (
            f"{value:g} in L2 is more than {largest:.4g}, the distance from a black image to a "
            f"white one of this size; pixels are in 0..1: if 8-bit steps are meant, write "
            f'"{value:g}/255"'
        )

    def project(self, images: Tensor, perturbed: Tensor) -> Tensor:
        """The point of the ball and the box next to `perturbed` (for L2: ball first, then box)."""
        if self.norm == "linf":
            lower = (images - self.epsilon).clamp_(min=0.0)
            upper = (images + self.epsilon).clamp_(max=1.0)
            return perturbed.clamp(lower, upper)
        delta = perturbed - images
        length = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
        shrink = (self.epsilon / length).clamp_max(1.0).view(-1, 1, 1, 1)
        projected: Tensor = images + delta * shrink
        return projected.clamp_(0.0, 1.0)

    def random_start(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """A random point of the ball for each image, clipped to the box.

        One seed an image, so that the start of an image does not depend on its batch.
        Uniform in the ball for L-inf; for L2 a uniform direction with a uniform radius.
        """
        import torch

        noise = torch.empty(images.shape, dtype=images.dtype)
        radius = torch.empty(len(seeds))
        for row, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            if self.norm == "linf":
                noise[row].uniform_(-1.0, 1.0, generator=generator)
            else:
                noise[row].normal_(generator=generator)
                radius[row].uniform_(generator=generator)
        if self.norm == "l2":
            length = noise.flatten(1).norm(dim=1).clamp_min(1e-12)
            noise = noise * (radius / length).view(-1, 1, 1, 1)
        return self.project(images, images + self.epsilon * noise.to(images.device))

    def step(self, perturbed: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """One ascent step, steepest in this norm; not projected.

        `step_size` is its length on the pixel scale, for all images or (N,) one each.
        """
        import torch

        if isinstance(step_size, torch.Tensor):
            step_size = step_size.view(-1, 1, 1, 1)
        if self.norm == "linf":
            return perturbed + step_size * gradient.sign()
        # To a largest entry of 1 first: the squares of a saturated loss's gradient are zero.
        largest = gradient.flatten(1).abs().amax(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        gradient = gradient / largest.view(-1, 1, 1, 1)
        length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        stepped: Tensor = perturbed + step_size * gradient / length
        return stepped

    def measure(self, images: Tensor, perturbed: Tensor) -> Tensor:
        """The size of each perturbation in this norm, shape (N,)."""
        delta = (perturbed - images).flatten(1)
        if self.norm == "linf":
            return delta.abs().amax(dim=1)
        distance: Tensor = delta.norm(dim=1)
        return distance


def sample_seeds(seed: int, sample_ids: Sequence[int], stream: str) -> list[int]:
    """One independent seed for each sample, a pure function of its arguments.

    `stream` names what is drawn ("pgd/restart-0"), so that two draws for an image differ.
    """
    return [
        int.from_bytes(hashlib.blake2b(f"{seed}/{stream}/{i}".encode(), digest_size=7).digest())
        for i in sample_ids
    ]
