"""The basic iterative method (Kurakin et al. 2016; eq. 3): PGD from the image itself."""

from typing import Literal

from pydantic import Field

from fend.attacks.ascent import Keep, ascend_from_clean
from fend.attacks.base import AttackOptions, Problem
from fend.attacks.gradient import Gradient
from fend.attacks.lazy import Tensor
from fend.attacks.objective import Objective
from fend.threat import Distance


class BIM(AttackOptions, frozen=True):
    """Iterated FGSM steps, each projected back onto the ball. Deterministic, so one run is all.

    With loss `feature_distance` it starts a hundredth of epsilon away, drawn from the seed.
    """

    name: Literal["bim"] = "bim"
    objective: Objective = Objective()
    gradient: Gradient = Gradient()
    steps: int = Field(default=10, ge=1, le=10_000)
    step_size: Distance | None = Field(default=None, gt=0)
    """On the pixel scale; None is epsilon / steps, so that the last step ends at the surface."""
    early_stop: bool = True
    """Take an image out of the batch as soon as it fools the model (see `PGD.early_stop`)."""
    keep: Keep = "best"
    """Which iterate is returned (see `PGD.keep`)."""

    def perturb(self, problem: Problem) -> Tensor:
        """The kept iterate of each image."""
        return ascend_from_clean(
            problem, steps=self.steps, step_size=self.step_size, early_stop=self.early_stop,
            keep=self.keep,
        )  # fmt: skip
