"""Interval bounds: sound for every network that we bound, exact where that is known."""

from itertools import product

import pytest
import torch
from refusals import code
from torch import nn
from torch.nn import functional as F

from fend.errors import Invalid
from fend.guarantees.intervals import Bounds, Interval, box, verified
from fend.models import build
from fend.pipeline import Defence

TOLERANCE = 1e-4
"""Of float32 in a deep network."""


class Residual(nn.Module):
    """What none of ours has in this combination: concatenation, subtraction, scaling, clamps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, images):
        maps = torch.relu(self.first(2.0 * images - 1.0))
        pooled = F.interpolate(F.avg_pool2d(maps, 2), scale_factor=2.0, mode="nearest")
        change = self.second(torch.cat([maps, pooled], dim=1))
        return (images - change / 2.0).clamp(0.0, 1.0)


NETWORKS = [
    ("paper-lenet", {}),
    ("plain-cnn", {}),
    ("plain-denoiser", {}),
    ("paper-autoencoder", {}),
    ("residual-unet", {"width": 4}),
    ("residual-unet", {"width": 4, "fold": 2, "scales": 3}),
    ("hgd-unet", {"width": 4}),
]


def _network(name: str, config: dict[str, object]) -> nn.Module:
    torch.manual_seed(0)
    network = Residual() if name == "residual" else build(name, config)
    with torch.no_grad():
        for parameter in network.parameters():  # also what starts at zero
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return network.eval()


def _some_points(inputs: Interval, count: int) -> torch.Tensor:
    """Corners, and points within: (count, N, ...)."""
    share = torch.rand(count, *inputs.lower.shape)
    share[: count // 2] = share[: count // 2].round()
    return inputs.lower + share * (inputs.upper - inputs.lower)


@pytest.mark.parametrize(("name", "config"), [*NETWORKS, ("residual", {})])
def test_no_point_of_the_box_leaves_the_bounds(name, config) -> None:
    network = _network(name, config)
    try:
        bounds = Bounds(network)
        inputs = box(torch.rand(2, 1, 28, 28), 0.1)
        outputs = bounds.outputs(inputs)
    except Invalid:
        assert name == "hgd-unet"  # it normalises by batches, which nothing here bounds
        return
    for points in _some_points(inputs, 40):
        answers = network(points)
        assert bool((answers >= outputs.lower - TOLERANCE).all())
        assert bool((answers <= outputs.upper + TOLERANCE).all())
    assert bool((outputs.upper > outputs.lower).any())


def test_a_box_without_width_gives_the_answer_itself() -> None:
    network = _network("plain-cnn", {})
    images = torch.rand(3, 1, 28, 28)
    outputs = Bounds(network).outputs(box(images, 0.0))
    assert torch.allclose(outputs.lower, network(images), atol=1e-5)
    assert torch.allclose(outputs.upper, network(images), atol=1e-5)


def test_a_linear_network_is_bounded_exactly() -> None:
    """Against all corners of the box."""
    torch.manual_seed(0)
    network = nn.Linear(5, 3)
    inputs = Interval(torch.rand(2, 5) - 0.5, torch.rand(2, 5) + 0.5)
    corners = torch.stack([
        torch.where(torch.tensor(ends, dtype=torch.bool), inputs.upper, inputs.lower)
        for ends in product((0, 1), repeat=5)
    ])  # fmt: skip
    answers = network(corners)
    outputs = Bounds(network).outputs(inputs)
    assert torch.allclose(outputs.lower, answers.amin(0), atol=1e-6)
    assert torch.allclose(outputs.upper, answers.amax(0), atol=1e-6)
    labels = torch.tensor([2, 0])
    margins = Bounds(network).margins(inputs, labels)
    rows = torch.arange(2)
    above = answers - answers[:, rows, labels].unsqueeze(2)
    assert torch.allclose(margins, above.amax(0), atol=1e-6)


def test_a_fresh_plain_denoiser_changes_nothing_and_its_bounds_are_the_box() -> None:
    torch.manual_seed(0)
    denoiser = build("plain-denoiser", {"width": 8})
    inputs = box(torch.rand(2, 1, 28, 28), 0.2)
    assert torch.equal(denoiser(inputs.upper), inputs.upper)
    outputs = Bounds(denoiser).outputs(inputs)
    assert torch.allclose(outputs.lower, inputs.lower, atol=1e-6)
    assert torch.allclose(outputs.upper, inputs.upper, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("plain-cnn", {"size_px": 5}, "nothing is left of 5 pixels"),
        ("plain-denoiser", {"channels": 3, "width": 2}, "width is 3 or more"),
    ],
)
def test_plain_networks_that_cannot_be_are_refused(name, config, said) -> None:
    with pytest.raises(Invalid, match=said, check=code("architecture_unknown")):
        build(name, config)


@pytest.mark.parametrize("name", ["paper-lenet", "plain-cnn"])
def test_margins_are_sound_and_tighter_than_the_bounds_of_the_logits(name) -> None:
    network = _network(name, {})
    inputs, labels = box(torch.rand(4, 1, 28, 28), 0.05), torch.tensor([0, 3, 9, 3])
    bounds, rows = Bounds(network), torch.arange(4)
    margins = bounds.margins(inputs, labels)
    assert torch.allclose(margins[rows, labels], torch.zeros(4), atol=1e-5)
    logits = bounds.outputs(inputs)
    loose = logits.upper - logits.lower[rows, labels].unsqueeze(1)
    others = ~F.one_hot(labels, 10).bool()
    assert bool((margins < loose)[others].all())
    for points in _some_points(inputs, 40):
        answers = network(points)
        above = answers - answers[rows, labels].unsqueeze(1)
        assert bool((above <= margins + TOLERANCE).all())


def test_bounds_follow_weights_and_pass_gradients() -> None:
    defence = Defence(_network("plain-denoiser", {}), _network("plain-cnn", {}))
    bounds = Bounds(defence)
    inputs, labels = box(torch.rand(2, 1, 28, 28), 0.1), torch.tensor([1, 2])
    before = bounds.margins(inputs, labels)
    F.cross_entropy(before, labels).backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in defence.parameters() if p.grad is not None)
    assert defence.denoiser.layers[0].weight.grad is not None
    with torch.no_grad():
        defence.classifier.layers[-1].weight.mul_(2.0)
        defence.classifier.layers[-1].bias.mul_(2.0)
    assert torch.allclose(bounds.margins(inputs, labels), 2 * before, rtol=1e-4, atol=1e-5)


def test_what_is_verified_is_what_no_point_of_the_ball_changes() -> None:
    """Of a classifier by brightness, whose robust radius is known for each image."""

    class Bright(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 2, bias=False)
            self.last.weight.data = torch.tensor([[0.0] * 4, [1.0] * 4])

        def forward(self, images):
            return self.last((images - 0.5).flatten(1))

    images = torch.tensor([0.9, 0.7, 0.6, 0.2, 0.45]).view(5, 1, 1, 1).expand(5, 1, 2, 2)
    labels = torch.tensor([1, 1, 1, 0, 1])
    at = {epsilon: verified(Bounds(Bright()), images, labels, epsilon) for epsilon in (0.15, 0.25)}
    assert at[0.15].tolist() == [True, True, False, True, False]
    assert at[0.25].tolist() == [True, False, False, True, False]


class Odd(nn.Module):
    """Looks like an operation that is bounded, and is not."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, images):
        return self.operation(images)


@pytest.mark.parametrize(
    "operation",
    [
        lambda images: F.interpolate(images, scale_factor=2.0, mode="bicubic"),
        lambda images: torch.add(images, images, alpha=-1),
        lambda images: images * images,
        lambda images: images.sin(),
        torch.exp,
    ],
)
def test_an_operation_that_could_shrink_is_refused(operation) -> None:
    with pytest.raises(Invalid, match="no bounds for the operation"):
        Bounds(Odd(operation)).outputs(box(torch.rand(1, 1, 4, 4), 0.1))


@pytest.mark.parametrize(
    "layer", [nn.Softmax(1), nn.BatchNorm2d(1), nn.GELU(), nn.Upsample(8, mode="bicubic")]
)
def test_what_cannot_be_bounded_is_refused(layer) -> None:
    with pytest.raises(Invalid, match=type(layer).__name__):
        Bounds(nn.Sequential(layer)).outputs(box(torch.rand(1, 1, 4, 4), 0.1))
