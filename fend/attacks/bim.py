"""The basic iterative method (Kurakin et al. 2016; eq. 3): PGD from the image itself."""

from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from fend.attacks.ascent import Keep, ascend
from fend.attacks.base import Access, Problem
from fend.attacks.best import Best
from fend.attacks.gradient import Gradient
from fend.attacks.lazy import Tensor
from fend.attacks.objective import Objective
from fend.threat import Distance, Norm


class BIM(BaseModel, frozen=True, extra="forbid"):
    """Iterated FGSM steps, each projected back onto the ball. Deterministic, so one run is all.

    With loss `feature_distance` it starts a hundredth of epsilon away, drawn from the seed.
    """

    access: ClassVar[Access] = "gradient"
    minimal: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

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
        best = Best.of_clean(problem)
        rows = best.rows(self.early_stop)
        if len(rows):
            ascend(
                problem,
                best,
                rows,
                problem.first_images(rows),
                steps=self.steps,
                step_size=self.step_size or problem.threat.epsilon / self.steps,
                early_stop=self.early_stop,
                keep=self.keep,
            )
        return best.images
