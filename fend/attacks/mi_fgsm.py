"""The momentum iterative FGSM (Dong et al. 2018), made to transfer to models it has not seen."""

from functools import partial
from typing import Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from fend.attacks.base import Problem
from fend.attacks.best import Best
from fend.attacks.objective import Objective


class MIFGSM(BaseModel, frozen=True, extra="forbid"):
    """Steps along a running sum of L1-normalised gradients, from the image itself."""

    name: Literal["mi_fgsm"] = "mi_fgsm"
    objective: Objective = Objective()
    steps: int = Field(default=10, ge=1, le=10_000)
    step_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """On the pixel scale; None is epsilon / steps."""
    decay: float = Field(default=1.0, ge=0, le=1)
    """How much of the running sum each step keeps; 0 is the basic iterative method."""
    early_stop: bool = True
    """Take an image out of the batch as soon as it fools the model (see `PGD.early_stop`)."""

    def perturb(self, problem: Problem) -> Tensor:
        """The best iterate of each image."""
        threat, objective = problem.threat, problem.objective
        step_size = self.step_size or threat.epsilon / self.steps
        best = Best.of_clean(problem)
        rows = best.rows(self.early_stop)
        if not len(rows):
            return best.images
        images, labels = problem.images[rows], problem.labels[rows]
        current, momentum = images, torch.zeros_like(images)
        for _ in range(self.steps):
            problem.stop()
            gradient, logits, values = problem.victim.gradient(
                current, partial(objective.values, labels=labels)
            )
            reached = objective.reached(logits, labels)
            best.offer(rows, current, values, reached)
            momentum = self.decay * momentum + _normalised(gradient)
            if self.early_stop and bool(reached.any()):
                going = ~reached
                rows, images, labels = rows[going], images[going], labels[going]
                current, momentum = current[going], momentum[going]
                if not len(rows):
                    return best.images
            current = threat.project(images, threat.step(current, momentum, step_size))
        logits = problem.victim.logits(current)
        values = objective.values(logits, labels)
        best.offer(rows, current, values, objective.reached(logits, labels))
        return best.images


def _normalised(gradient: Tensor) -> Tensor:
    """Each image's gradient with an L1 norm of 1; zero stays zero."""
    size = gradient.flatten(1).abs().sum(1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / size.view(-1, 1, 1, 1)
