"""The Square attack (Andriushchenko et al. 2020): random search on the model's scores alone."""

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from fend.attacks.base import Access, AttackOptions, Problem
from fend.attacks.best import Best
from fend.attacks.lazy import Tensor, torch
from fend.attacks.objective import Objective
from fend.threat import Norm

HALVE_AFTER = (10, 50, 200, 500, 1_000, 2_000, 4_000, 6_000, 8_000)
"""Queries, of `SCHEDULE_QUERIES`, after which a square covers half as much."""
SCHEDULE_QUERIES = 10_000
DRAW_AHEAD = 100
"""Queries whose random numbers are drawn at once, since seeding a generator costs more."""


class Square(AttackOptions, frozen=True):
    """Squares of +-epsilon at random places, each kept where it helps. L-inf only, no gradients.

    Needs answers, not weights, so no defence can hide its gradient from it. Unlike the authors'
    code, place and sign are drawn for each image, and a square may touch the last row and column.
    """

    access: ClassVar[Access] = "scores"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    name: Literal["square"] = "square"
    objective: Objective = Objective(loss="margin")
    queries: int = Field(default=5_000, ge=1, le=1_000_000)
    """Forward passes of each image. The squares shrink on a schedule scaled to them."""
    initial_share: float = Field(default=0.8, gt=0, le=1)
    """The share of the image that the first squares cover."""
    early_stop: bool = True
    """Take an image out of the batch as soon as it fools the model (see `PGD.early_stop`)."""

    @model_validator(mode="after")
    def _scores_decide(self) -> "Square":
        if self.objective.loss == "feature_distance":
            raise ValueError("square sees scores, not features; use another loss")
        return self

    def perturb(self, problem: Problem) -> Tensor:
        """The image that the search ends at, or the clean one where that is no worse."""
        threat, images = problem.threat, problem.images
        best = Best.of_clean(problem)
        rows = searched = best.rows(self.early_stop)
        if not len(rows):
            return best.images
        lowest = threat.project(images, images - threat.epsilon)
        highest = threat.project(images, images + threat.epsilon)
        # The search starts from stripes, even where those are worse than the clean image.
        walk = Best(images.clone(), torch.full_like(best.values, -torch.inf), best.reached & False)
        stripes = torch.where(_stripes(problem, rows), highest[rows], lowest[rows])
        rows = self._ask(problem, walk, rows, stripes)
        draws = images.new_empty(len(images), DRAW_AHEAD, 2 + images.shape[1])
        for query in range(1, self.queries):
            if not len(rows):
                break
            problem.stop()
            ahead = (query - 1) % DRAW_AHEAD
            if ahead == 0:
                draws[rows] = _uniform(problem, rows, f"square/from-{query}", *draws.shape[1:])
            drawn = draws[rows, ahead]
            up = (drawn[:, 2:] < 0.5)[:, :, None, None]
            extreme = torch.where(up, highest[rows], lowest[rows])
            square = _squares(drawn[:, :2], self._side_px(query, images), images)
            rows = self._ask(problem, walk, rows, torch.where(square, extreme, walk.images[rows]))
        best.offer(searched, walk.images[searched], walk.values[searched], walk.reached[searched])
        return best.images

    def _ask(self, problem: Problem, walk: Best, rows: Tensor, candidates: Tensor) -> Tensor:
        """One query for each image of `rows`, kept where it helps; the rows to go on with."""
        values, reached = problem.ask(candidates, rows)
        walk.offer(rows, candidates, values, reached)
        return rows[~reached] if self.early_stop else rows

    def _side_px(self, query: int, images: Tensor) -> int:
        """How long a side of the squares is at `query`, at most the shorter side of the image."""
        height, width = images.shape[-2:]
        scale = self.queries / SCHEDULE_QUERIES
        halvings = sum(query > after * scale for after in HALVE_AFTER)
        side = round(math.sqrt(self.initial_share / float(2**halvings) * height * width))
        return min(max(side, 1), height, width)


def _stripes(problem: Problem, rows: Tensor) -> Tensor:
    """Up or down, bool (n,C,1,W), for each column and channel."""
    channels, _, width = problem.images.shape[1:]
    return _uniform(problem, rows, "square/stripes", channels, 1, width) < 0.5


def _uniform(problem: Problem, rows: Tensor, stream: str, *shape: int) -> Tensor:
    """Numbers in [0, 1), (n, *shape), from one generator an image."""
    drawn = torch.empty(len(rows), *shape)
    for row, seed in enumerate(problem.seeds(rows, stream)):
        drawn[row].uniform_(generator=torch.Generator().manual_seed(seed))
    return drawn.to(problem.images.device)


def _squares(place: Tensor, side_px: int, images: Tensor) -> Tensor:
    """Which pixels, bool (n,1,H,W), each image's square covers; `place` (n,2) is in [0, 1)."""
    height, width = images.shape[-2:]
    top = (place[:, 0] * (height - side_px + 1)).long()[:, None]
    left = (place[:, 1] * (width - side_px + 1)).long()[:, None]
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    tall = (row >= top) & (row < top + side_px)
    wide = (column >= left) & (column < left + side_px)
    return tall[:, None, :, None] & wide[:, None, None, :]
