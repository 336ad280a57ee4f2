"""A graph answers what its model does, at any batch size, or is not used."""

import pytest
import torch
from torch import Tensor, nn

from fend.models.architectures.lenet import PaperLeNet
from fend.models.architectures.unet import ResidualUNet
from fend.pipeline import Defence
from fend.pipeline import frozen as without_gradients
from service.inference.frozen_graph import TOLERANCE, GraphDisagrees, Served, frozen

IMAGE = torch.linspace(0, 1, 28 * 28).view(1, 28, 28)


def served(denoiser: nn.Module) -> Served:
    torch.manual_seed(0)
    defence = Defence(denoiser, PaperLeNet())
    without_gradients(defence)
    return Served(defence)


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64])
def test_a_graph_answers_what_its_model_does(size: int) -> None:
    model = served(ResidualUNet(width=4))
    graph = frozen(model, IMAGE)
    images = torch.rand(size, 1, 28, 28)
    for one, other in zip(model(images), graph(images), strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one.float(), other.float(), rtol=0, atol=TOLERANCE)


def test_a_graph_says_of_each_image_whether_its_answer_is_finite() -> None:
    images = torch.stack([IMAGE, IMAGE, IMAGE])
    images[1, 0, 0, 0] = float("nan")
    graph = frozen(served(ResidualUNet(width=4)), IMAGE)
    assert graph(images).finite.tolist() == [True, False, True]


class Wavering(nn.Module):
    """Does one thing with a batch of several and another with one image, as no trace can."""

    def forward(self, images: Tensor) -> Tensor:
        return images if len(images) > 1 else 1 - images


class Untraceable(nn.Module):
    """Fails wherever it is traced."""

    def forward(self, images: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("no graph of this")
        return images


@pytest.mark.parametrize("denoiser", [Wavering(), Untraceable()])
def test_a_graph_that_would_answer_otherwise_is_refused(denoiser: nn.Module) -> None:
    with pytest.raises(GraphDisagrees):
        frozen(served(denoiser), IMAGE)
