"""A small trained network and the drawn digits that it knows, for attacks to work on."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fend.datasets import load
from fend.models import build
from fend.pipeline import frozen


@pytest.fixture(scope="session")
def digit_classifier() -> nn.Module:
    """A small network that knows rendered digits."""
    torch.manual_seed(0)
    images = load("rendered-digits:train", None)
    module = build("paper-lenet", {})
    optimiser = torch.optim.Adam(module.parameters(), lr=2e-3)
    for indices in torch.split(torch.randperm(len(images))[:3_000], 64):
        optimiser.zero_grad()
        F.cross_entropy(module(images.pixels(indices)), images.labels[indices]).backward()
        optimiser.step()
    return frozen(module)


@pytest.fixture(scope="session")
def digit_batch(digit_classifier: nn.Module) -> tuple[Tensor, Tensor]:
    """Pixels and labels of test digits that the network answers right."""
    images = load("rendered-digits:test", None)
    pixels, labels = images.pixels(slice(0, 200)), images.labels[:200]
    right = digit_classifier(pixels).argmax(1) == labels
    assert int(right.sum()) > 150
    return pixels[right], labels[right]
