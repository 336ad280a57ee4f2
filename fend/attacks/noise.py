"""Random noise: the control that every real attack has to beat."""

from typing import ClassVar, Literal

from pydantic import Field

from fend.attacks.base import Access, AttackOptions, Problem
from fend.attacks.best import Best
from fend.attacks.lazy import Tensor
from fend.attacks.objective import Objective


class Noise(AttackOptions, frozen=True):
    """Random points of the ball (L-inf: uniform; L2: any direction, any radius), no gradient."""

    access: ClassVar[Access] = "none"

    name: Literal["noise"] = "noise"
    objective: Objective = Objective(loss="margin")
    """Decides only which of the draws is kept."""
    draws: int = Field(default=10, ge=1, le=10_000)
    early_stop: bool = True
    """Take an image out of the batch as soon as it fools the model (see `PGD.early_stop`)."""

    def perturb(self, problem: Problem) -> Tensor:
        """The best draw of each image."""
        best = Best.of_clean(problem)
        for draw in range(self.draws):
            problem.stop()
            rows = best.rows(self.early_stop)
            if not len(rows):
                break
            seeds = problem.seeds(rows, f"noise/draw-{draw}")
            noisy = problem.threat.random_start(problem.images[rows], seeds)
            best.offer(rows, noisy, *problem.ask(noisy, rows))
        return best.images
