"""The convolution over images gives what torch's gives, forth and back."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fend.models.image_conv import ImageConv2d, with_image_convs
from fend.models.registry import build
from fend.pipeline import frozen

CONVS = [
    nn.Conv2d(1, 20, 5),
    nn.Conv2d(3, 8, 3, padding=1, bias=False),
    nn.Conv2d(2, 6, (3, 5), stride=(2, 1), padding=(1, 2)),
    nn.Conv2d(3, 4, 7, stride=3, padding=3),
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("conv", CONVS)
def test_same_answers_and_gradients_as_torch(conv: nn.Conv2d, channels_last: bool) -> None:
    theirs = nn.Sequential(conv)
    ours = with_image_convs(copy.deepcopy(theirs))
    assert [type(layer) for layer in ours.children()] == [ImageConv2d]
    images = torch.rand(5, conv.in_channels, 17, 20, generator=torch.Generator().manual_seed(0))
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    found: list[list[Tensor]] = []
    for module in (theirs, ours):
        leaf = images.clone().requires_grad_(True)
        answer: Tensor = module(leaf)
        gradients = torch.autograd.grad(answer.square().sum(), [leaf, *module.parameters()])
        found.append([answer, *gradients])
    assert torch.equal(found[0][0], found[1][0])
    for their, our in zip(*found, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-3)


def test_only_what_gains_is_replaced_and_weights_stay_where_they_were() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(3, 3, 3, groups=3),
        nn.Conv2d(1, 4, 3, padding="same"), nn.Conv2d(1, 4, 3, padding_mode="reflect", padding=1),
    )  # fmt: skip
    names = list(module.state_dict())
    first = module[0].weight
    with_image_convs(module)
    assert [type(layer) is ImageConv2d for layer in module] == [True, False, False, False, False]
    assert list(module.state_dict()) == names
    assert module[0].weight is first


def test_a_classifier_of_the_registry_trains_and_is_attacked_through_it() -> None:
    classifier = build("paper-lenet", {})
    assert any(isinstance(layer, ImageConv2d) for layer in classifier.modules())
    images = torch.rand(2, 1, 28, 28)
    classifier(images).sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())
    leaf = images.requires_grad_(True)
    (gradient,) = torch.autograd.grad(frozen(classifier)(leaf).sum(), leaf)
    assert gradient.abs().sum() > 0


def test_the_gradient_of_no_images_is_empty() -> None:
    leaf = torch.zeros(0, 1, 28, 28, requires_grad=True)
    (gradient,) = torch.autograd.grad(frozen(build("paper-lenet", {}))(leaf).sum(), leaf)
    assert gradient.shape == leaf.shape
