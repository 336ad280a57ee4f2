"""HopSkipJump (Chen et al. 2020): along the boundary by the model's labels alone."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from fend.attacks.base import Access, AttackOptions, Problem
from fend.attacks.lazy import Tensor, torch
from fend.attacks.objective import Objective
from fend.attacks.smallest import Smallest, UntargetedMargin

FIRST_PROBE = 0.1
"""How far from the boundary point the first round's probes lie, in L2."""
LEAST_PROBE_PX = 1e-5
"""What a probe changes in each pixel at least: enough for float32, whatever the image's size."""
MOST_BISECTIONS = 20
"""Of a line to the boundary: beyond these, float32 has no points left on it."""
MOST_LEAPS = 20
"""Halvings of a leap that ended where the model is not fooled."""
PROBES_AT_ONCE = 10
"""Probes of each image that are asked together."""
COARSEST = 5
"""The noise to start from has squares of 1, 2, 4, ... pixels, so many sizes in turn."""


class HopSkipJump(AttackOptions, frozen=True):
    """Finds some noise that fools, and walks from it along the boundary towards the clean image.

    Each round estimates the boundary's direction from the labels of random probes, leaps along it
    and comes back to the boundary by bisection. Sees no scores, so nothing that a defence does to
    its confidence helps it. Needs thousands of queries for one image.
    """

    access: ClassVar[Access] = "decisions"
    minimal: ClassVar[bool] = True

    name: Literal["hop_skip_jump"] = "hop_skip_jump"
    objective: UntargetedMargin = Objective(loss="margin")
    """Only its labels; there is no loss to see."""
    queries: int = Field(default=5_000, ge=1, le=1_000_000)
    """Forward passes of each image, at most. An image leaves when a round might exceed them."""
    initial_tries: int = Field(default=100, ge=1, le=10_000)
    """Noise images to try for a first one that fools; none found leaves the image as it is."""
    probes: int = Field(default=100, ge=1, le=10_000)
    """Queries of the first round; round t takes sqrt(t) times as many."""
    early_stop: bool = True
    """Take an image out of the batch as soon as it fools the model within epsilon. False looks
    for the smallest perturbation to the end."""

    def perturb(self, problem: Problem) -> Tensor:
        """The smallest perturbation found for each image, though it be larger than epsilon."""
        found = Smallest.of_clean(problem)
        search = _Search(problem, found, torch.full_like(problem.labels, self.queries))
        rows = found.open_rows(self.early_stop)
        rows, current = search.start(rows, self.initial_tries)
        bisections = _bisections(problem)
        rows, current = self._going(search, rows, current, bisections)
        current = search.to_boundary(rows, current, bisections)
        number = 1
        while True:
            probes = int(self.probes * math.sqrt(number))
            needed = probes + MOST_LEAPS + bisections
            rows, current = self._going(search, rows, current, needed)
            if not len(rows):
                return found.images
            distances = problem.threat.measure(problem.images[rows], current)
            way = search.direction(rows, current, distances, number, probes)
            current = search.leap(rows, current, way, distances / math.sqrt(number))
            current = search.to_boundary(rows, current, bisections)
            number += 1

    def _going(
        self, search: "_Search", rows: Tensor, current: Tensor, needed: int
    ) -> tuple[Tensor, Tensor]:
        """The rows that have `needed` queries left and are not done, and their points."""
        going = search.left[rows] >= needed
        if self.early_stop:
            going &= search.found.distances[rows] > search.problem.threat.epsilon
        return rows[going], current[going]


@dataclass
class _Search:
    """The questions that a search asks, each counted."""

    problem: Problem
    found: Smallest
    left: Tensor
    """Queries that each image (N,) has left."""

    def start(self, rows: Tensor, tries: int) -> tuple[Tensor, Tensor]:
        """Noise that fools: the rows (m,) for which there is some, and the noise (m,C,H,W)."""
        started = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        noise = self.problem.images[rows]
        for number in range(tries):
            waiting = (~started & (self.left[rows] > 0)).nonzero().squeeze(1)
            if not len(waiting):
                break
            self.problem.stop()
            drawn = _noise(self.problem, rows[waiting], number)
            started[waiting] = self._ask(drawn, rows[waiting])
            noise[waiting] = drawn
        return rows[started], noise[started]

    def to_boundary(self, rows: Tensor, outside: Tensor, bisections: int) -> Tensor:
        """The fooling point (n,C,H,W) next to the boundary, between `outside` and clean.

        For L2 on a straight line; for L-inf each perturbation is clipped to a smaller size.
        """
        clean, norm = self.problem.images[rows], self.problem.threat.norm
        delta = outside - clean
        size = delta.flatten(1).abs().amax(1).view(-1, 1, 1, 1)

        def between(share: Tensor) -> Tensor:
            share = share.view(-1, 1, 1, 1)
            if norm == "linf":
                return clean + delta.clamp(-share * size, share * size)
            return clean + share * delta

        low, high = torch.zeros(2, len(rows), device=clean.device)
        high = high + 1
        for _ in range(bisections if len(rows) else 0):
            self.problem.stop()
            middle = (low + high) / 2
            fooled = self._ask(between(middle), rows)
            low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
        return torch.where((high == 1).view(-1, 1, 1, 1), outside, between(high))

    def direction(
        self, rows: Tensor, current: Tensor, distances: Tensor, round_number: int, probes: int
    ) -> Tensor:
        """The steepest way (n,C,H,W) into the region that fools, by the labels of random probes.

        `distances` (n,) are those of `current` to the clean images.
        """
        pixels, linf = current[0].numel(), self.problem.threat.norm == "linf"
        reach = (distances / pixels).clamp_min(LEAST_PROBE_PX * math.sqrt(pixels))
        if round_number == 1:
            reach = torch.full_like(reach, FIRST_PROBE)
        reach = reach.view(-1, 1, 1, 1, 1)
        seeds = self.problem.seeds(rows, f"hop-skip-jump/round-{round_number}")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        signs = torch.zeros_like(distances)
        steps, signed_steps = torch.zeros_like(current), torch.zeros_like(current)
        for at in range(0, probes, PROBES_AT_ONCE):
            self.problem.stop()
            count = min(PROBES_AT_ONCE, probes - at)
            noise = torch.empty(len(rows), count, *current.shape[1:])
            for row, generator in enumerate(generators):
                if linf:
                    noise[row].uniform_(-1.0, 1.0, generator=generator)
                else:
                    noise[row].normal_(generator=generator)
            noise = noise.to(current.device)
            noise /= noise.flatten(2).norm(dim=2).clamp_min(1e-12)[:, :, None, None, None]
            asked = (current.unsqueeze(1) + reach * noise).clamp(0.0, 1.0)
            step = (asked - current.unsqueeze(1)) / reach  # the box may have shortened it
            sign = 2.0 * self._ask_many(asked, rows) - 1
            signs += sign.sum(1)
            steps += step.sum(1)
            signed_steps += (sign[:, :, None, None, None] * step).sum(1)
        mean_sign = (signs / probes).view(-1, 1, 1, 1)
        # The mean is taken out for a lower variance; where all labels agree nothing would be left.
        way = signed_steps - torch.where(mean_sign.abs() == 1, 0.0, mean_sign * steps)
        if linf:
            return way.sign()
        unit: Tensor = way / way.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        return unit

    def leap(self, rows: Tensor, current: Tensor, way: Tensor, size: Tensor) -> Tensor:
        """The first of `current` + `size` (n,) * `way`, halved each time, that fools."""
        landed, waiting = current.clone(), torch.arange(len(rows), device=rows.device)
        for _ in range(MOST_LEAPS):
            if not len(waiting):
                break
            self.problem.stop()
            step = size[waiting].view(-1, 1, 1, 1) * way[waiting]
            ahead = (current[waiting] + step).clamp(0.0, 1.0)
            fooled = self._ask(ahead, rows[waiting])
            landed[waiting[fooled]] = ahead[fooled]
            waiting, size = waiting[~fooled], size / 2
        return landed

    def _ask(self, images: Tensor, rows: Tensor) -> Tensor:
        """Whether each of `images` (n,C,H,W) fools."""
        self.left[rows] -= 1
        return self.found.ask(self.problem, images, rows)

    def _ask_many(self, images: Tensor, rows: Tensor) -> Tensor:
        """The same (n,m) of several images (n,m,C,H,W) for each row."""
        count = images.shape[1]
        self.left[rows] -= count
        asked_for = rows.repeat_interleave(count)
        logits = self.problem.victim.logits(images.flatten(0, 1), asked_for)
        fooled = self.problem.objective.reached(logits, self.problem.labels[asked_for])
        fooled = fooled.view(-1, count)
        for image, hit in zip(images.unbind(1), fooled.unbind(1), strict=True):
            self.found.offer(rows, image, hit)
        return fooled


def _bisections(problem: Problem) -> int:
    """Halvings that make a line as short as the authors' threshold, which depends on the norm."""
    pixels = problem.images[0].numel()
    exponent = 2.0 if problem.threat.norm == "linf" else 1.5
    return min(max(math.ceil(exponent * math.log2(pixels)), 1), MOST_BISECTIONS)


def _noise(problem: Problem, rows: Tensor, number: int) -> Tensor:
    """Noise (n,C,H,W) in squares: models tend to give all the noise of one size one answer."""
    channels, height, width = problem.images.shape[1:]
    side_px = 2 ** (number % COARSEST)
    down, across = math.ceil(height / side_px), math.ceil(width / side_px)
    drawn = torch.empty(len(rows), channels, down, across)
    for row, seed in enumerate(problem.seeds(rows, f"hop-skip-jump/start-{number}")):
        drawn[row].uniform_(generator=torch.Generator().manual_seed(seed))
    large = drawn.repeat_interleave(side_px, dim=2).repeat_interleave(side_px, dim=3)
    return large[:, :, :height, :width].to(problem.images.device)
