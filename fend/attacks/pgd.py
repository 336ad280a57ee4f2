"""Projected gradient descent (Madry et al. 2017; eq. 3); BIM without its random start."""

from functools import partial
from typing import Literal

from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from fend.attacks.base import Problem
from fend.attacks.best import Best
from fend.attacks.objective import Objective


class PGD(BaseModel, frozen=True, extra="forbid"):
    """Iterated steps, each projected back onto the ball.

    The paper's profile is 100 steps of 0.1 at epsilon 0.2 from a random start (section 4.2).
    """

    name: Literal["pgd"] = "pgd"
    objective: Objective = Objective()
    steps: int = Field(default=100, ge=1, le=10_000)
    step_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """On the pixel scale; None is 2.5 * epsilon / steps."""
    restarts: int = Field(default=1, ge=1, le=1_000)
    random_start: bool = True
    early_stop: bool = True
    """Take an image out of the batch as soon as it fools the model: the same count of fooled
    images for less work. False drives every image as far as the steps allow, which is what an
    attack that must transfer to another model wants."""
    keep: Literal["best", "last"] = "best"
    """Which iterate is returned: the one that fools with the highest loss, or the last one (what
    ART does, and so what the paper's author ran)."""

    @model_validator(mode="after")
    def _last_has_one_run(self) -> "PGD":
        if self.keep == "last" and self.restarts > 1:
            raise ValueError("keep='last' knows one run only; with restarts use keep='best'")
        return self

    def perturb(self, problem: Problem) -> Tensor:
        """The kept iterate of each image, the best over all restarts."""
        step_size = self.step_size or 2.5 * problem.threat.epsilon / self.steps
        best = Best.of_clean(problem)
        for restart in range(self.restarts):
            rows = best.rows(self.early_stop)
            if len(rows):
                self._run(problem, rows, restart, step_size, best)
        return best.images

    def _run(
        self, problem: Problem, rows: Tensor, restart: int, step_size: float, best: Best
    ) -> None:
        """One restart over the images `rows`; what it finds is written into `best`."""
        images, labels = problem.images[rows], problem.labels[rows]
        current = images
        if self.random_start:
            seeds = problem.seeds(rows, f"pgd/restart-{restart}")
            current = problem.threat.random_start(images, seeds)
        for _ in range(self.steps):
            problem.stop()
            gradient, logits, values = problem.victim.gradient(
                current, partial(problem.objective.values, labels=labels)
            )
            reached = problem.objective.reached(logits, labels)
            if self.keep == "best":
                best.offer(rows, current, values, reached)
            if self.early_stop and bool(reached.any()):
                if self.keep == "last":
                    best.replace(rows[reached], current[reached])
                going = ~reached
                rows, images, labels = rows[going], images[going], labels[going]
                current, gradient = current[going], gradient[going]
                if not len(rows):
                    return
            current = problem.threat.project(
                images, problem.threat.step(current, gradient, step_size)
            )
        if self.keep == "last":
            best.replace(rows, current)
            return
        logits = problem.victim.logits(current)
        values = problem.objective.values(logits, labels)
        best.offer(rows, current, values, problem.objective.reached(logits, labels))
