"""The fast gradient sign method (Goodfellow et al. 2014; eq. 2 of the paper)."""

from functools import partial
from typing import Literal

from pydantic import BaseModel
from torch import Tensor

from fend.attacks.base import Problem
from fend.attacks.objective import Objective


class FGSM(BaseModel, frozen=True, extra="forbid"):
    """One step of length epsilon from the image itself. One backward pass an image."""

    name: Literal["fgsm"] = "fgsm"
    objective: Objective = Objective()

    def perturb(self, problem: Problem) -> Tensor:
        """x + epsilon * sign(gradient); pixels without a gradient stay (L2: its direction)."""
        gradient, _, _ = problem.victim.gradient(
            problem.images, partial(problem.objective.values, labels=problem.labels)
        )
        return problem.threat.step(problem.images, gradient, problem.threat.epsilon)
