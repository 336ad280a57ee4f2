"""A graph answers what its model does, at any batch size, or is not used."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fend.models.architectures.lenet import PaperLeNet
from fend.models.architectures.unet import ResidualUNet
from fend.pipeline import Defence
from fend.pipeline import frozen as without_gradients
from service.inference import openvino_graph
from service.inference.frozen_graph import TOLERANCE, Forward, GraphDisagrees, Served, frozen

IMAGE = torch.linspace(0, 1, 28 * 28).view(1, 28, 28)

Make = Callable[[Served, Tensor], Forward]


@pytest.fixture(params=["torchscript", "openvino"])
def make(request: pytest.FixtureRequest) -> Make:
    if request.param == "torchscript":
        return frozen
    if openvino_graph.version() is None:
        pytest.skip("OpenVINO is not installed (pip install 'fend[openvino]')")
    return lambda model, image: openvino_graph.compiled(model, image)(1)


def served(denoiser: nn.Module, *, compare: bool = True) -> Served:
    torch.manual_seed(0)
    defence = Defence(denoiser, PaperLeNet())
    without_gradients(defence)
    return Served(defence, compare=compare)


@pytest.mark.parametrize("compare", [True, False])
def test_a_graph_answers_what_its_model_does(make: Make, compare: bool) -> None:
    model = served(ResidualUNet(width=4), compare=compare)
    graph = make(model, IMAGE)
    for size in (1, 2, 3, 17, 64):
        images = torch.rand(size, 1, 28, 28)
        model_says, graph_says = model(images), graph(images)
        assert (graph_says.undefended is None) == (graph_says.suspicion is None) == (not compare)
        for one, other in zip(model_says.tensors, graph_says.tensors, strict=True):
            assert one.shape == other.shape
            assert torch.allclose(one.float(), other.float(), rtol=0, atol=TOLERANCE)


def test_answers_stay_when_the_next_batch_comes(make: Make) -> None:
    graph = make(served(ResidualUNet(width=4)), IMAGE)
    first = graph(torch.zeros(2, 1, 28, 28))
    kept = first.denoised.clone()
    graph(torch.ones(2, 1, 28, 28))
    assert torch.equal(first.denoised, kept)


def test_a_graph_says_of_each_image_whether_its_answer_is_finite(make: Make) -> None:
    images = torch.stack([IMAGE, 0 * IMAGE, IMAGE])
    graph = make(served(OfTheDarkNothing()), IMAGE)
    assert graph(images).finite.tolist() == [True, False, True]


class OfTheDarkNothing(nn.Module):
    """Brightens images to a mean of one half; of a black one nothing is left but NaN."""

    def forward(self, images: Tensor) -> Tensor:
        return images * 0.5 / images.mean((1, 2, 3), keepdim=True)


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
def test_a_graph_that_would_answer_otherwise_is_refused(make: Make, denoiser: nn.Module) -> None:
    with pytest.raises(GraphDisagrees):
        make(served(denoiser), IMAGE)
