"""DeepFool (Moosavi-Dezfooli et al. 2016): straight to the nearest boundary, in a few steps."""

from typing import ClassVar, Literal

from pydantic import Field

from fend.attacks.base import AttackOptions, Problem
from fend.attacks.gradient import Gradient
from fend.attacks.hyperplanes import likeliest_wrong, nearest_boundary, unbounded_step
from fend.attacks.lazy import Tensor
from fend.attacks.objective import Objective
from fend.attacks.smallest import Smallest, UntargetedMargin

NUDGE = 1e-4
"""Added to each step, as in the authors' code. Steps that the pixel box cuts short would otherwise
come nearer and nearer to the boundary and never cross it."""


class DeepFool(AttackOptions, frozen=True):
    """Steps to the nearest boundary of the linearised model until the model is fooled.

    Cheap, and a good first look at how far away the boundary is; FAB, which goes on from there,
    finds smaller perturbations.
    """

    minimal: ClassVar[bool] = True

    name: Literal["deepfool"] = "deepfool"
    objective: UntargetedMargin = Objective(loss="margin")
    gradient: Gradient = Gradient()
    steps: int = Field(default=50, ge=1, le=10_000)
    candidates: int = Field(default=9, ge=1, le=1_000)
    """Wrong classes whose boundaries are looked at, likeliest first by the clean logits: at most
    so many, and all there are where the model has fewer. Each costs a backward pass a step."""
    overshoot: float = Field(default=0.02, ge=0, le=1)
    """Distance that a step goes beyond the boundary, in shares of the step."""

    def perturb(self, problem: Problem) -> Tensor:
        """The first point of each image's path that fools, though it be beyond epsilon."""
        found = Smallest.of_clean(problem)
        rows = found.open_rows(early_stop=False)
        classes = likeliest_wrong(problem)[:, : self.candidates]
        current = problem.images[rows]
        for _ in range(self.steps):
            if not len(rows):
                break
            problem.stop()
            normals, gaps, _ = nearest_boundary(problem, current, rows, classes[rows])
            step = unbounded_step(normals, gaps, problem.threat.norm, NUDGE)
            current = (current + (1 + self.overshoot) * step).clamp(0.0, 1.0)
            going = ~found.ask(problem, current, rows)
            rows, current = rows[going], current[going]
        return found.images
