"""The Fast Adaptive Boundary attack (Croce & Hein 2020): the smallest perturbation that fools."""

from typing import ClassVar, Literal

from pydantic import Field

from fend.attacks.base import AttackOptions, Problem
from fend.attacks.gradient import Gradient
from fend.attacks.hyperplanes import lengths, likeliest_wrong, nearest_boundary, step_to_hyperplane
from fend.attacks.lazy import Tensor, torch
from fend.attacks.objective import Objective
from fend.attacks.smallest import Smallest, UntargetedMargin
from fend.threat import Norm


class FAB(AttackOptions, frozen=True):
    """Steps to the nearest boundary of the linearised model, pulled back towards the clean image.

    It has no step size and ignores the scale of the logits. With `targets` this is FAB-T: one run
    for each of the most likely wrong classes, each step with one backward pass; without, each step
    looks at all classes, at as many passes.
    """

    minimal: ClassVar[bool] = True

    name: Literal["fab"] = "fab"
    objective: UntargetedMargin = Objective(loss="margin")
    gradient: Gradient = Gradient()
    steps: int = Field(default=100, ge=1, le=10_000)
    restarts: int = Field(default=1, ge=1, le=1_000)
    """Runs for each target. The first starts at the clean image, the others at random."""
    targets: int | None = Field(default=9, ge=1, le=1_000)
    """Wrong classes to drive at in turn, likeliest first by the clean logits: at most so many, and
    all there are where the model has fewer. None goes to the nearest of all classes."""
    alpha_max: float = Field(default=0.1, ge=0, le=1)
    """The largest share of a step that leads back towards the clean image."""
    eta: float = Field(default=1.05, ge=1, le=2)
    """Factor of a step's length: above 1 it goes beyond the boundary."""
    beta: float = Field(default=0.9, gt=0, lt=1)
    """Share of its perturbation that an image keeps once it fools the model."""
    early_stop: bool = True
    """Take an image out of the batch as soon as it fools the model within epsilon: the same count
    of fooled images for less work. False looks for the smallest perturbation to the end."""

    def perturb(self, problem: Problem) -> Tensor:
        """The smallest perturbation found for each image, though it be larger than epsilon."""
        found = Smallest.of_clean(problem)
        wrong = likeliest_wrong(problem)
        runs = [wrong] if self.targets is None else torch.split(wrong[:, : self.targets], 1, dim=1)
        for number, classes in enumerate(runs):
            for restart in range(self.restarts):
                rows = found.open_rows(self.early_stop)
                if not len(rows):
                    return found.images
                start = problem.images[rows]
                if restart > 0:
                    start = _random_start(problem, found, rows, f"fab/run-{number}-{restart}")
                self._run(problem, found, rows, start, classes)
        return found.images

    def _run(
        self, problem: Problem, found: Smallest, rows: Tensor, start: Tensor, classes: Tensor
    ) -> None:
        """One run from `start` (n,C,H,W) to the nearest of `classes` (N,m)."""
        norm, current = problem.threat.norm, start
        for _ in range(self.steps):
            problem.stop()
            images = problem.images[rows]
            normals, gaps, reached = nearest_boundary(problem, current, rows, classes[rows])
            found.offer(rows, current, reached)
            gaps_at_clean = gaps + (normals * (images - current)).flatten(1).sum(1)
            onward, from_clean = step_to_hyperplane(
                torch.cat([current, images]),
                torch.cat([normals, normals]),
                torch.cat([gaps, gaps_at_clean]),
                norm,
            ).chunk(2)
            back = _share_of_clean(onward, from_clean, norm).clamp_max(self.alpha_max)
            current = (1 - back) * (current + self.eta * onward)
            current = (current + back * (images + self.eta * from_clean)).clamp(0.0, 1.0)
            reached = found.ask(problem, current, rows)
            shrunk = images + self.beta * (current - images)
            current = torch.where(reached.view(-1, 1, 1, 1), shrunk, current)
            if self.early_stop and bool(reached.any()):
                going = found.distances[rows] > problem.threat.epsilon
                rows, current = rows[going], current[going]
                if not len(rows):
                    return


def _share_of_clean(onward: Tensor, from_clean: Tensor, norm: Norm) -> Tensor:
    """(n,1,1,1): the larger, the nearer the boundary is to the clean image than to the current."""
    ahead, whole = (lengths(move, norm).clamp_min(1e-8) for move in (onward, from_clean))
    return (ahead / (ahead + whole)).view(-1, 1, 1, 1)


def _random_start(problem: Problem, found: Smallest, rows: Tensor, stream: str) -> Tensor:
    """A point (n,C,H,W) at half of epsilon from each image, or of what was found if smaller."""
    images, norm = problem.images[rows], problem.threat.norm
    noise = torch.empty(images.shape, dtype=images.dtype)
    for row, seed in enumerate(problem.seeds(rows, stream)):
        generator = torch.Generator().manual_seed(seed)
        if norm == "linf":
            noise[row].uniform_(-1.0, 1.0, generator=generator)
        else:
            noise[row].normal_(generator=generator)
    noise = noise.to(images.device)
    radius = found.distances[rows].clamp_max(problem.threat.epsilon) / 2
    scale = (radius / lengths(noise, norm).clamp_min(1e-12)).view(-1, 1, 1, 1)
    return (images + scale * noise).clamp(0.0, 1.0)
