"""Auto-PGD (Croce & Hein 2020): step sizes that halve where they have stopped helping."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from fend.attacks.base import Problem
from fend.attacks.best import Best
from fend.attacks.errors import AttackInvalid
from fend.attacks.objective import Objective
from fend.threat import ThreatModel

MOMENTUM = 0.75
"""The new direction's share of each step; the previous step has the rest."""
ENOUGH_INCREASES = 0.75
"""A step size is kept while more than this share of a window's steps raised the loss."""
FIRST_WINDOW, WINDOW_SHRINK, LAST_WINDOW = 0.22, 0.03, 0.06
"""Lengths between two looks at the step size, in shares of all steps."""


class APGD(BaseModel, frozen=True, extra="forbid"):
    """PGD with momentum, whose only knob is its budget.

    Each image has its own step size: 2 epsilon at first, halved at fixed checkpoints where the
    loss no longer rises; the image then goes on from its best point so far. With `targets` this is
    APGD-T: one run for each of the most likely wrong classes.
    """

    name: Literal["apgd"] = "apgd"
    objective: Objective = Objective()
    steps: int = Field(default=100, ge=1, le=10_000)
    restarts: int = Field(default=1, ge=1, le=1_000)
    """Of each target, where there are targets."""
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
        return self

    def perturb(self, problem: Problem) -> Tensor:
        """The best iterate of each image over all targets and restarts.

        Raises:
            AttackInvalid: more `targets` than the model has wrong classes.
        """
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
        wrong = problem.clean_logits.shape[1] - 1
        if self.targets > wrong:
            raise AttackInvalid(f"targets={self.targets}, but the model has {wrong} wrong classes")
        others = problem.clean_logits.scatter(1, problem.labels.unsqueeze(1), float("-inf"))
        yield from others.topk(self.targets, dim=1).indices.unbind(1)

    def _run(
        self, problem: Problem, rows: Tensor, best: Best, targets: Tensor | None, stream: str
    ) -> None:
        """One run over the images `rows`; what it finds is written into `best`."""
        threat, objective = problem.threat, problem.objective
        images, labels = problem.images[rows], problem.labels[rows]
        targets = None if targets is None else targets[rows]
        start = threat.random_start(images, problem.seeds(rows, stream))
        walk = _Walk.start(start, 2 * threat.epsilon)
        windows = _windows(self.steps)
        for step in range(self.steps):
            problem.stop()
            gradient, logits, values = problem.victim.gradient(
                walk.current, _climbed(objective, labels, targets)
            )
            # Runs climb to different targets, so what is kept is judged by the objective itself.
            reached = objective.reached(logits, labels)
            best.offer(rows, walk.current, objective.values(logits, labels), reached)
            walk.observe(gradient, values)
            if self.early_stop and bool(reached.any()):
                going = ~reached
                rows, images, labels = rows[going], images[going], labels[going]
                targets = None if targets is None else targets[going]
                walk = walk.only(going)
                if not len(rows):
                    return
            if step in windows:
                walk.halve_where_stuck(windows[step])
            walk.advance(threat, images, MOMENTUM if step else 1.0)
        logits = problem.victim.logits(walk.current)
        values = objective.values(logits, labels)
        best.offer(rows, walk.current, values, objective.reached(logits, labels))


def _climbed(
    objective: Objective, labels: Tensor, targets: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """Logits to the number (N,) whose gradient a run follows."""
    if targets is None:
        return partial(objective.values, labels=labels)
    return partial(objective.values_towards, labels=labels, targets=targets)


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
    """At `current`, as `values`."""
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
        self.best[better] = self.current[better]
        self.best_gradient[better] = gradient[better]
        self.best_values[better] = values[better]

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

    def advance(self, threat: ThreatModel, images: Tensor, momentum: float) -> None:
        """One step, projected before and after it is mixed with the one before."""
        ahead = threat.project(images, threat.step(self.current, self.gradient, self.step_size))
        mixed = momentum * (ahead - self.current) + (1 - momentum) * (self.current - self.previous)
        self.previous, self.current = self.current, threat.project(images, self.current + mixed)
