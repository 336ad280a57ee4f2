"""Auto-PGD (Croce & Hein 2020): step sizes that halve where they have stopped helping."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

from pydantic import Field, model_validator

from fend.attacks.ball import Ball
from fend.attacks.base import AttackOptions, Problem
from fend.attacks.best import Best
from fend.attacks.gradient import Gradient
from fend.attacks.lazy import Tensor, torch
from fend.attacks.objective import Objective

MOMENTUM = 0.75
"""The new direction's share of each step; the previous step has the rest."""
ENOUGH_INCREASES = 0.75
"""A step size is kept while more than this share of a window's steps raised the loss."""
FIRST_WINDOW, WINDOW_SHRINK, LAST_WINDOW = 0.22, 0.03, 0.06
"""Lengths between two looks at the step size, in shares of all steps."""


class APGD(AttackOptions, frozen=True):
    """PGD with momentum, whose only knob is its budget.

    Each image has its own step size: 2 epsilon at first, halved at fixed checkpoints where the
    loss no longer rises; the image then goes on from its best point so far. With `targets` this is
    APGD-T: one run for each of the most likely wrong classes.
    """

    name: Literal["apgd"] = "apgd"
    objective: Objective = Objective()
    gradient: Gradient = Gradient()
    steps: int = Field(default=100, ge=1, le=10_000)
    restarts: int = Field(default=1, ge=1, le=1_000)
    """Steps for each target, where there are targets."""
    targets: int | None = Field(default=None, ge=1, le=1_000)
    """How many wrong classes to drive at in turn, by the clean logits. None drives away from the
    label only."""
    early_stop: bool = True
    """Take an image out of the batch as soon as it fools the model (see `PGD.early_stop`)."""

    @model_validator(mode="after")
    def _targets_are_chosen_once(self) -> "APGD":
        if self.targets is not None and self.objective.goal == "targeted":
            raise ValueError(
                "targets=... tries several wrong classes of an untargeted attack; "
                "leave it out where the objective is targeted"
            )
        if self.targets is not None and self.objective.loss == "feature_distance":
            raise ValueError("loss 'feature_distance' has no targets; leave targets out")
        return self

    def needs_classes(self) -> int:
        """How many classes a model must have at least."""
        if self.targets is None:
            return self.objective.needs_classes()
        return max(self.objective.needs_classes("targeted"), self.targets + 1)

    def perturb(self, problem: Problem) -> Tensor:
        """The best iterate of each image over all targets and restarts."""
        best = Best.of_clean(problem)
        for number, targets in enumerate(self._targets(problem)):
            for restart in range(self.restarts):
                rows = best.rows(self.early_stop)
                if len(rows):
                    self._run(problem, rows, best, targets, f"apgd/run-{number}-{restart}")
        return best.images

    def _targets(self, problem: Problem) -> Iterator[Tensor | None]:
        """The target (N,) of each image, run by run; one None where there are none."""
        if self.targets is None:
            yield None
            return
        others = problem.clean_logits.scatter(1, problem.labels.unsqueeze(1), float("-inf"))
        yield from others.topk(self.targets, dim=1).indices.unbind(1)

    def _run(
        self, problem: Problem, rows: Tensor, best: Best, targets: Tensor | None, stream: str
    ) -> None:
        """One run over the images `rows`; what it finds is written into `best`."""
        threat, diagnostics = problem.threat, problem.victim.diagnostics
        ball = Ball.around(problem.images[rows], threat)
        targets = None if targets is None else targets[rows]
        start = threat.random_start(ball.images, problem.seeds(rows, stream))
        walk = _Walk.start(start, 2 * threat.epsilon)
        windows = _windows(self.steps)
        for step in range(self.steps):
            problem.stop()
            gradient, climbed, values, reached = _gradient(problem, walk.current, rows, targets)
            diagnostics.see_values(climbed, rows, step, self.steps)
            best.offer(rows, walk.current, values, reached)
            walk.observe(gradient, climbed)
            if self.early_stop and bool(reached.any()):
                going = ~reached
                rows, ball = rows[going], ball.only(going)
                targets = None if targets is None else targets[going]
                walk = walk.only(going)
                if not len(rows):
                    return
            if step in windows:
                walk.halve_where_stuck(windows[step])
            walk.advance(ball, MOMENTUM if step else 1.0)
        climbed, values, reached = _ask(problem, walk.current, rows, targets)
        diagnostics.see_values(climbed, rows, self.steps, self.steps)
        best.offer(rows, walk.current, values, reached)


def _ask(
    problem: Problem, images: Tensor, rows: Tensor, targets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The number (N,) that the run climbs, and what `Problem.ask` gives."""
    if targets is None:
        values, reached = problem.ask(images, rows)
        return values, values, reached
    objective, labels = problem.objective, problem.labels[rows]
    logits = problem.victim.logits(images, rows)
    climbed = objective.values_towards(logits, labels, targets)
    return climbed, objective.values(logits, labels), objective.reached(logits, labels)


def _gradient(
    problem: Problem, images: Tensor, rows: Tensor, targets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradient (N,C,H,W) of the number that the run climbs, and what `_ask` gives.

    Runs climb to different targets, so what is kept is judged by the objective itself.
    """
    if targets is None:
        gradient, values, reached = problem.gradient(images, rows)
        return gradient, values, values, reached
    objective, labels = problem.objective, problem.labels[rows]
    gradient, logits, climbed = problem.victim.gradient(
        images, partial(objective.values_towards, labels=labels, targets=targets), rows
    )
    reached = objective.reached(logits, labels)
    return gradient, climbed, objective.values(logits, labels), reached


def _windows(steps: int) -> dict[int, int]:
    """The steps after which the step size is looked at, each with the length of its window."""
    window, shrink, shortest = (
        max(int(share * steps), 1) for share in (FIRST_WINDOW, WINDOW_SHRINK, LAST_WINDOW)
    )
    windows: dict[int, int] = {}
    at = window
    while at < steps:
        windows[at] = window
        window = max(window - shrink, shortest)
        at += window
    return windows


@dataclass
class _Walk:
    """Where each image of a run stands; every field has one entry an image."""

    current: Tensor
    previous: Tensor
    gradient: Tensor
    """Gradient at `current`, as `values`."""
    values: Tensor
    step_size: Tensor
    best: Tensor
    """The highest point of the loss so far, which need not fool the model, and its gradient."""
    best_gradient: Tensor
    best_values: Tensor
    increases: Tensor
    """How many steps of this window raised the loss."""
    checked_values: Tensor
    """`best_values` at the last checkpoint."""
    halved: Tensor
    """Whether the last checkpoint halved the step size."""

    @classmethod
    def start(cls, current: Tensor, step_size: float) -> "_Walk":
        """Before the first gradient."""
        per_image = current.new_full((len(current),), float("inf"))
        return cls(
            current=current,
            previous=current,
            gradient=torch.zeros_like(current),
            values=per_image,  # so that arriving at the start does not count as an increase
            step_size=torch.full_like(per_image, step_size),
            best=current.clone(),
            best_gradient=torch.zeros_like(current),
            best_values=-per_image,
            increases=torch.zeros_like(per_image),
            checked_values=-per_image,
            # The first checkpoint has no earlier one whose best it could compare with.
            halved=torch.ones_like(per_image, dtype=torch.bool),
        )

    def only(self, mask: Tensor) -> "_Walk":
        """The images that go on."""
        return _Walk(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def observe(self, gradient: Tensor, values: Tensor) -> None:
        """Take in what was found at `current`."""
        self.increases += values > self.values
        self.gradient, self.values = gradient, values
        better = values > self.best_values
        chosen = better.view(-1, 1, 1, 1)  # no indexing by mask: it makes a GPU wait
        self.best = torch.where(chosen, self.current, self.best)
        self.best_gradient = torch.where(chosen, gradient, self.best_gradient)
        self.best_values = torch.where(better, values, self.best_values)

    def halve_where_stuck(self, window: int) -> None:
        """Halve the step size, and return to the best point, where the window was of no use."""
        oscillates = self.increases <= ENOUGH_INCREASES * window
        idle = ~self.halved & (self.best_values <= self.checked_values)
        halve = oscillates | idle
        self.step_size = torch.where(halve, self.step_size / 2, self.step_size)
        back = halve.view(-1, 1, 1, 1)
        self.current = torch.where(back, self.best, self.current)
        self.gradient = torch.where(back, self.best_gradient, self.gradient)
        self.values = torch.where(halve, self.best_values, self.values)
        self.halved, self.checked_values = halve, self.best_values.clone()
        self.increases = torch.zeros_like(self.increases)

    def advance(self, ball: Ball, momentum: float) -> None:
        """One step, projected before and after it is mixed with the one before."""
        ahead = ball.project(ball.threat.step(self.current, self.gradient, self.step_size))
        mixed = momentum * (ahead - self.current) + (1 - momentum) * (self.current - self.previous)
        self.previous, self.current = self.current, ball.project(self.current + mixed)
