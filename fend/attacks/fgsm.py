"""The fast gradient sign method (Goodfellow et al. 2014; eq. 2 of the paper)."""

from typing import Literal

from fend.attacks.base import AttackOptions, Problem
from fend.attacks.gradient import Gradient
from fend.attacks.lazy import Tensor, torch
from fend.attacks.objective import Objective


class FGSM(AttackOptions, frozen=True):
    """One step of length epsilon from the image itself. One backward pass an image."""

    name: Literal["fgsm"] = "fgsm"
    objective: Objective = Objective()
    gradient: Gradient = Gradient()

    def perturb(self, problem: Problem) -> Tensor:
        """x + epsilon * sign(gradient); pixels without a gradient stay (L2: its direction)."""
        rows = torch.arange(len(problem.images), device=problem.images.device)
        images = problem.first_images(rows)
        gradient, _, _ = problem.gradient(images, rows)
        return problem.threat.step(images, gradient, problem.threat.epsilon)
