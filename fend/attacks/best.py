"""The memory that iterated attacks share: the best image found so far."""

from dataclasses import dataclass

from fend.attacks.base import Problem
from fend.attacks.lazy import Tensor, torch


@dataclass
class Best:
    """The best iterate of each image so far: one that reaches the goal beats one that does not,
    and among equals the higher value wins."""

    images: Tensor
    """(N,C,H,W)."""
    values: Tensor
    """(N,), what the objective makes of `images`."""
    reached: Tensor
    """bool (N,)."""

    @classmethod
    def of_clean(cls, problem: Problem) -> "Best":
        """Start from the clean images, which reach the goal where the model already errs."""
        reached = problem.objective.reached(problem.clean_logits, problem.labels)
        return cls(problem.images.clone(), problem.clean_values, reached)

    def rows(self, early_stop: bool) -> Tensor:
        """The rows to go on with: all of them, or with `early_stop` those not yet at the goal."""
        if early_stop:
            return (~self.reached).nonzero().squeeze(1)
        return torch.arange(len(self.images), device=self.images.device)

    def offer(self, rows: Tensor, images: Tensor, values: Tensor, reached: Tensor) -> None:
        """Keep those of `images` that are better than what is held for `rows`."""
        held_values, held_reached = self.values[rows], self.reached[rows]
        better = (reached & ~held_reached) | ((reached == held_reached) & (values > held_values))
        # No indexing by mask: it makes a GPU wait.
        chosen = better.view(-1, 1, 1, 1)
        self.images[rows] = torch.where(chosen, images, self.images[rows])
        self.values[rows] = torch.where(better, values, held_values)
        self.reached[rows] = held_reached | reached

    def replace(self, rows: Tensor, images: Tensor) -> None:
        """Keep `images` for `rows` whatever was held."""
        self.images[rows] = images
