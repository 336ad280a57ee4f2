"""The momentum iterative FGSM (Dong et al. 2018), made to transfer to models it has not seen."""

from typing import Literal

from pydantic import Field

from fend.attacks.ascent import ascend_from_clean
from fend.attacks.base import AttackOptions, Problem
from fend.attacks.gradient import Gradient
from fend.attacks.lazy import Tensor
from fend.attacks.objective import Objective
from fend.threat import Distance


class MIFGSM(AttackOptions, frozen=True):
    """Steps along a running sum of L1-normalised gradients, from the image itself."""

    name: Literal["mi_fgsm"] = "mi_fgsm"
    objective: Objective = Objective()
    gradient: Gradient = Gradient()
    steps: int = Field(default=10, ge=1, le=10_000)
    step_size: Distance | None = Field(default=None, gt=0)
    """On the pixel scale; None is epsilon / steps."""
    decay: float = Field(default=1.0, ge=0, le=1)
    """Share of the running sum that each step keeps; 0 is the basic iterative method."""
    early_stop: bool = True
    """Take an image out of the batch as soon as it fools the model (see `PGD.early_stop`)."""

    def perturb(self, problem: Problem) -> Tensor:
        """The best iterate of each image."""
        return ascend_from_clean(
            problem, steps=self.steps, step_size=self.step_size, early_stop=self.early_stop,
            decay=self.decay,
        )  # fmt: skip
