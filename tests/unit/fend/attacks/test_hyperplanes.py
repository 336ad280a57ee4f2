"""The shortest step to a hyperplane in the box, against bisection in double precision."""

import pytest
import torch
from torch import Tensor

from fend.attacks.hyperplanes import step_to_hyperplane

NORMS = ["linf", "l2"]


def drawn(count: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Points, a third of their pixels on the walls of the box, and normals with some zeros."""
    generator = torch.Generator().manual_seed(0)
    points = (3 * torch.rand(count, *shape, generator=generator) - 1).clamp(0, 1)
    normals = torch.randn(count, *shape, generator=generator)
    normals *= torch.rand(count, *shape, generator=generator) > 0.1
    return points, normals


def shortest(point: Tensor, normal: Tensor, gap: float, norm: str) -> float:
    """The length of the shortest step by bisection on what the pixels would like to move."""
    point, normal = point.double().flatten(), normal.double().flatten()
    way = -torch.tensor(gap).sign() * (normal.sign() if norm == "linf" else normal)

    def step(size: float) -> Tensor:
        return (point + size * way).clamp(0, 1) - point

    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        short = abs(float(step(middle) @ normal)) < abs(gap)
        low, high = (middle, high) if short else (low, middle)
    found = step(high)
    return float(found.abs().max() if norm == "linf" else found.norm())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 2), (1, 28, 28)])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e15])
def test_the_step_is_the_shortest_to_the_plane(norm, shape, scale) -> None:
    points, normals = drawn(20, shape)
    sides = torch.linspace(-1, 1, 20).sign()
    most = torch.where(normals * sides.view(-1, 1, 1, 1) < 0, 1 - points, points)
    most = (normals.abs() * most).flatten(1).sum(1)  # what the box leaves to gain
    gaps = sides * most * torch.linspace(0.05, 0.95, 20)
    step = step_to_hyperplane(points, normals * scale, gaps * scale, norm)
    assert float((points + step).min()) >= -1e-6
    assert float((points + step).max()) <= 1 + 1e-6
    left = gaps + (normals * step).flatten(1).sum(1)
    assert float((left / most).abs().max()) < 1e-4
    flat = step.flatten(1)
    size = flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)
    for row in range(20):
        expected = shortest(points[row], normals[row], float(gaps[row]), norm)
        assert float(size[row]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_a_plane_beyond_the_box_is_gone_to_as_far_as_the_corner(norm) -> None:
    points, normals = drawn(5, (1, 3, 4))
    step = step_to_hyperplane(points, normals, torch.full((5,), 1e3), norm)
    ended, corner = points + step, torch.where(normals > 0, 0.0, 1.0)
    assert torch.allclose(ended[normals != 0], corner[normals != 0], atol=1e-6)
    assert not step[normals == 0].any()


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_gradient_or_a_gap_there_is_no_step(norm) -> None:
    points, normals = drawn(4, (1, 3, 4))
    assert not step_to_hyperplane(points, 0 * normals, torch.ones(4), norm).any()
    assert not step_to_hyperplane(points, normals, torch.zeros(4), norm).any()
