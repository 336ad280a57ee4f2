"""The loop that BIM, PGD and MI-FGSM share: step up the gradient, project, remember the best."""

from typing import Literal

from fend.attacks.ball import Ball
from fend.attacks.base import Problem
from fend.attacks.best import Best
from fend.attacks.lazy import Tensor, torch

Keep = Literal["best", "last"]


def ascend(
    problem: Problem,
    best: Best,
    rows: Tensor,
    start: Tensor,
    *,
    steps: int,
    step_size: float,
    early_stop: bool,
    keep: Keep = "best",
    decay: float | None = None,
) -> None:
    """One run over the images `rows` from `start` (n,C,H,W); `best` takes what it finds.

    With `decay` a step follows a running sum of L1-normalised gradients, of which it keeps that
    share, instead of the gradient itself.
    """
    ball, current = Ball.around(problem.images[rows], problem.threat), start
    momentum = None if decay is None else torch.zeros_like(start)
    diagnostics = problem.victim.diagnostics
    for step in range(steps):
        problem.stop()
        gradient, values, reached = problem.gradient(current, rows)
        diagnostics.see_values(values, rows, step, steps)
        if keep == "best":
            best.offer(rows, current, values, reached)
        if momentum is not None and decay is not None:
            momentum = gradient = decay * momentum + _normalised(gradient)
        if early_stop and bool(reached.any()):
            if keep == "last":
                best.replace(rows[reached], current[reached])
            going = ~reached
            rows, ball = rows[going], ball.only(going)
            current, gradient = current[going], gradient[going]
            momentum = None if momentum is None else gradient
            if not len(rows):
                return
        current = ball.project(problem.threat.step(current, gradient, step_size))
    if keep == "last":
        best.replace(rows, current)
        return
    values, reached = problem.ask(current, rows)
    diagnostics.see_values(values, rows, steps, steps)
    best.offer(rows, current, values, reached)


def ascend_from_clean(
    problem: Problem,
    *,
    steps: int,
    step_size: float | None,
    early_stop: bool,
    keep: Keep = "best",
    decay: float | None = None,
) -> Tensor:
    """The kept iterates (N,C,H,W) of one run from the images themselves. `step_size` None is
    epsilon / steps, so that the last step ends at the surface."""
    best = Best.of_clean(problem)
    rows = best.rows(early_stop)
    if len(rows):
        ascend(
            problem, best, rows, problem.first_images(rows), steps=steps,
            step_size=step_size or problem.threat.epsilon / steps, early_stop=early_stop,
            keep=keep, decay=decay,
        )  # fmt: skip
    return best.images


def _normalised(gradient: Tensor) -> Tensor:
    """Each image's gradient with an L1 norm of 1; zero stays zero."""
    size = gradient.flatten(1).abs().sum(1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / size.view(-1, 1, 1, 1)
