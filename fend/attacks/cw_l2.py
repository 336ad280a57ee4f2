"""The L2 attack of Carlini & Wagner (2017): distance and margin in one sum, weighed by search."""

from typing import ClassVar, Literal

from pydantic import Field

from fend.attacks.base import AttackOptions, Problem
from fend.attacks.gradient import Gradient
from fend.attacks.lazy import Tensor, torch
from fend.attacks.objective import Objective
from fend.attacks.smallest import MarginObjective, Smallest
from fend.threat import Norm

INSIDE = 0.999999
"""Pixels are drawn in by this much, since tanh meets 0 and 1 only at infinity."""
ADAM_FIRST, ADAM_SECOND, ADAM_EPSILON = 0.9, 0.999, 1e-8
LOOKS = 10
"""How often in a descent each image is looked at for progress."""
PROGRESS = 0.9999
"""An image whose loss has not come below this share of the last look's leaves the descent."""


class CWL2(AttackOptions, frozen=True):
    """Minimises squared distance + c * (margin to the goal), c by bisection for each image.

    Adam works on the pixels' inverse tanh, which has no box to leave. An image's descent ends by
    its own progress, never by its batch's. L2 only. Strong and slow: try FAB first.
    """

    minimal: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    name: Literal["cw_l2"] = "cw_l2"
    objective: MarginObjective = Objective(loss="margin")
    gradient: Gradient = Gradient()
    searches: int = Field(default=9, ge=1, le=50)
    """Values of c to try for each image, one descent each."""
    steps: int = Field(default=1_000, ge=1, le=100_000)
    """Most steps of one descent."""
    step_size: float = Field(default=0.01, gt=0, le=10, allow_inf_nan=False)
    """Adam's learning rate, on the scale of the inverse tanh. 0.05 with 200 steps does nearly as
    well on most images, and overshoots those that lie near the boundary."""
    initial_c: float = Field(default=1e-3, gt=0, le=1e6, allow_inf_nan=False)
    """Multiplied by 10 until the image fools the model, and bisected from then on."""
    kappa: float = Field(default=0.0, ge=0, le=1e3, allow_inf_nan=False)
    """The margin of logits to win by. More than 0 gives larger perturbations that transfer."""
    early_stop: bool = True
    """Take an image out of the batch as soon as it wins within epsilon. False looks for the
    smallest perturbation to the end."""

    def perturb(self, problem: Problem) -> Tensor:
        """The smallest perturbation found that wins by `kappa`, or else by less."""
        winning, reaching = Smallest.of_clean(problem), Smallest.of_clean(problem)
        weight = torch.full_like(winning.distances, self.initial_c)
        too_low, too_high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
        for _ in range(self.searches):
            rows = winning.open_rows(self.early_stop)
            if not len(rows):
                break
            won = self._descend(problem, winning, reaching, rows, weight[rows])
            tried = weight[rows]
            too_high[rows] = torch.where(won, tried, too_high[rows])
            too_low[rows] = torch.where(won, too_low[rows], tried)
            middle = (too_low + too_high) / 2
            weight = torch.where(torch.isinf(too_high), 10 * too_low, middle)
        has_won = torch.isfinite(winning.distances).view(-1, 1, 1, 1)
        return torch.where(has_won, winning.images, reaching.images)

    def _descend(
        self, problem: Problem, winning: Smallest, reaching: Smallest, rows: Tensor, weight: Tensor
    ) -> Tensor:
        """One descent with the weights `weight` (n,); whether each image (n,) won on the way."""
        won = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        place = torch.arange(len(rows), device=rows.device)  # of each image in `won`
        images, weight = problem.images[rows], weight.view(-1, 1, 1, 1)
        inverse = torch.atanh((2 * images - 1) * INSIDE)
        mean, square = torch.zeros_like(inverse), torch.zeros_like(inverse)
        looked_at = torch.full_like(weight, torch.inf)
        look_every = max(self.steps // LOOKS, 1)
        for step in range(1, self.steps + 1):
            problem.stop()
            squashed = inverse.tanh()
            current = (squashed + 1) / 2
            gradient, values, reached = problem.gradient(current, rows)
            wins = reached & (values >= self.kappa)
            winning.offer(rows, current, wins)
            reaching.offer(rows, current, reached)
            won[place[wins]] = True
            lacking = (self.kappa - values).clamp_min(0.0).view(-1, 1, 1, 1)
            slope = 2 * (current - images) - torch.where(lacking > 0, weight * gradient, 0.0)
            slope = slope * (1 - squashed.square()) / 2
            mean = ADAM_FIRST * mean + (1 - ADAM_FIRST) * slope
            square = ADAM_SECOND * square + (1 - ADAM_SECOND) * slope.square()
            spread = (square / (1 - ADAM_SECOND**step)).sqrt() + ADAM_EPSILON
            inverse = inverse - self.step_size * mean / (1 - ADAM_FIRST**step) / spread
            going = torch.ones_like(wins)
            if step % look_every == 0:
                distance = (current - images).square().sum((1, 2, 3), keepdim=True)
                loss = distance + weight * lacking
                going = (loss <= PROGRESS * looked_at).flatten()
                looked_at = loss
            if self.early_stop:
                going &= winning.distances[rows] > problem.threat.epsilon
            if not bool(going.all()):
                rows, place, images, weight, looked_at = (
                    part[going] for part in (rows, place, images, weight, looked_at)
                )
                inverse, mean, square = inverse[going], mean[going], square[going]
                if not len(rows):
                    break
        return won
