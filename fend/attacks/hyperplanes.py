"""Moves to where a model, taken as linear, changes its answer: what FAB and DeepFool share."""

from functools import partial

from fend.attacks.base import Problem
from fend.attacks.lazy import Tensor, torch
from fend.threat import Norm

NEGLIGIBLE = 1e-12
"""Slopes below this share of an image's steepest one count as zero."""


def likeliest_wrong(problem: Problem) -> Tensor:
    """Every class but the label, (N, classes - 1), likeliest first by the clean logits."""
    order = problem.clean_logits.argsort(dim=1, descending=True, stable=True)
    wrong = order != problem.labels.unsqueeze(1)
    return order[wrong].view(len(order), -1)


def nearest_boundary(
    problem: Problem, points: Tensor, rows: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest of the boundaries between the label and `classes` (n,m), by the gradients.

    Returns the gradient (n,C,H,W) and the value (n,) at `points` of that class's logit minus the
    label's, which is zero on the boundary, and whether each of `points` reaches the goal. One
    backward pass for each class.
    """
    normals, gaps, reached = _difference(problem, points, rows, classes[:, 0])
    nearest = _distance(normals, gaps, problem.threat.norm)
    for other in classes[:, 1:].unbind(1):
        normal, gap, _ = _difference(problem, points, rows, other)
        distance = _distance(normal, gap, problem.threat.norm)
        nearer = distance < nearest
        nearest = torch.where(nearer, distance, nearest)
        gaps = torch.where(nearer, gap, gaps)
        normals = torch.where(nearer.view(-1, 1, 1, 1), normal, normals)
    return normals, gaps, reached


def step_to_hyperplane(points: Tensor, normals: Tensor, gaps: Tensor, norm: Norm) -> Tensor:
    """The shortest move (n,C,H,W), within [0, 1], to where a linear function is zero.

    The function has the value `gaps` (n,) at `points`, and the gradient `normals`. Where the box
    [0, 1] holds no zero, the move ends at its corner nearest to one; where the gradient is zero,
    there is no move.

    Every pixel goes at its own speed until it meets the box, so that what the move gains is a
    concave, piecewise linear function of its size; the breakpoints are sorted, and the piece that
    holds the answer is solved.
    """
    flat = normals.flatten(1)
    steepest = flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    flat = -gaps.sign().unsqueeze(1) * flat / steepest
    flat = torch.where(flat.abs() < NEGLIGIBLE, 0.0, flat)
    slope, wanted = flat.abs(), gaps.abs() / steepest.squeeze(1)
    room = torch.where(flat > 0, 1 - points.flatten(1), points.flatten(1))
    if norm == "linf":
        direction, meets_box = flat.sign(), torch.where(slope > 0, room, 0.0)
    else:
        direction, meets_box = flat, torch.where(slope > 0, room / slope, 0.0)
    size = _size(slope * direction.abs(), meets_box, wanted)
    move = direction * torch.minimum(size.unsqueeze(1), meets_box)
    return move.view_as(points)


def unbounded_step(normals: Tensor, gaps: Tensor, norm: Norm, further: float = 0.0) -> Tensor:
    """The same move (n,C,H,W) with no box in the way, and longer by `further` in this norm."""
    size = (_distance(normals, gaps, norm) + further) * -gaps.sign()
    if norm == "linf":
        direction = normals.sign()
    else:
        length = lengths(normals, norm).clamp_min(torch.finfo(normals.dtype).tiny)
        direction = normals / length.view(-1, 1, 1, 1)
    return torch.where(direction == 0, 0.0, size.view(-1, 1, 1, 1) * direction)


def lengths(moves: Tensor, norm: Norm) -> Tensor:
    """The size (n,) of each of `moves` (n,C,H,W)."""
    flat = moves.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


def _size(gain: Tensor, meets_box: Tensor, wanted: Tensor) -> Tensor:
    """The t (n,) at which `sum(gain * min(t, meets_box))` is `wanted` (n,), or its largest one."""
    meets_box, order = meets_box.sort(dim=1)
    gain = gain.gather(1, order)
    stopped = (gain * meets_box).cumsum(1)  # by the pixels up to and with this one, once at the box
    moving = gain.flip(1).cumsum(1).flip(1)  # the speed of the pixels from this one on
    at_break = stopped + meets_box * (moving - gain)
    piece = (at_break < wanted.unsqueeze(1)).sum(1, keepdim=True)
    last = gain.shape[1] - 1
    before = torch.where(piece > 0, stopped.gather(1, (piece - 1).clamp_min(0)), 0.0).squeeze(1)
    speed = moving.gather(1, piece.clamp_max(last)).squeeze(1)
    size = (wanted - before) / speed.clamp_min(torch.finfo(speed.dtype).tiny)
    return torch.where(piece.squeeze(1) > last, meets_box[:, -1], size.clamp_min(0.0))


def _difference(
    problem: Problem, points: Tensor, rows: Tensor, other: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    labels = problem.labels[rows]
    values = partial(problem.objective.values_towards, labels=labels, targets=other)
    gradient, logits, gap = problem.victim.gradient(points, values, rows)
    # Where a model answers NaN there is no way to go on; it counts as fooled.
    gap = torch.where(torch.isfinite(gap), gap, 0.0)
    return gradient, gap, problem.objective.reached(logits, labels)


def _distance(normals: Tensor, gaps: Tensor, norm: Norm) -> Tensor:
    """How far (n,) the boundary is, without the box: the gap over the gradient's dual norm."""
    flat = normals.flatten(1)
    slope = flat.abs().sum(1) if norm == "linf" else flat.norm(dim=1)
    return gaps.abs() / slope.clamp_min(torch.finfo(slope.dtype).tiny)
