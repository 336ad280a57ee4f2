"""Projected gradient descent (Madry et al. 2017; eq. 3)."""

from typing import Literal

from pydantic import Field, model_validator

from fend.attacks.ascent import Keep, ascend
from fend.attacks.base import AttackOptions, Problem
from fend.attacks.best import Best
from fend.attacks.gradient import Gradient
from fend.attacks.lazy import Tensor
from fend.attacks.objective import Objective
from fend.threat import Distance


class PGD(AttackOptions, frozen=True):
    """Iterated steps, each projected back onto the ball.

    The paper's profile is 100 steps of 0.1 at epsilon 0.2 from a random start (section 4.2).
    """

    name: Literal["pgd"] = "pgd"
    objective: Objective = Objective()
    gradient: Gradient = Gradient()
    steps: int = Field(default=100, ge=1, le=10_000)
    step_size: Distance | None = Field(default=None, gt=0)
    """On the pixel scale; None is 2.5 * epsilon / steps."""
    restarts: int = Field(default=1, ge=1, le=1_000)
    random_start: bool = True
    early_stop: bool = True
    """Take an image out of the batch as soon as it fools the model: the same count of fooled
    images for less work. False drives every image as far as the steps allow, which is what an
    attack that must transfer to another model wants."""
    keep: Keep = "best"
    """Which iterate is returned: the one that fools with the highest loss, or the last one (what
    ART does, and so what the paper's author ran)."""

    @model_validator(mode="after")
    def _last_has_one_run(self) -> "PGD":
        if self.keep == "last" and self.restarts > 1:
            raise ValueError("keep='last' knows one run only; with restarts use keep='best'")
        return self

    def perturb(self, problem: Problem) -> Tensor:
        """The kept iterate of each image, the best over all restarts."""
        best = Best.of_clean(problem)
        for restart in range(self.restarts):
            rows = best.rows(self.early_stop)
            if not len(rows):
                break
            if self.random_start:
                seeds = problem.seeds(rows, f"pgd/restart-{restart}")
                start = problem.threat.random_start(problem.images[rows], seeds)
            else:
                start = problem.first_images(rows)
            ascend(
                problem,
                best,
                rows,
                start,
                steps=self.steps,
                step_size=self.step_size or 2.5 * problem.threat.epsilon / self.steps,
                early_stop=self.early_stop,
                keep=self.keep,
            )
        return best.images
