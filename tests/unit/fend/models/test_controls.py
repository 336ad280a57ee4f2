"""The known-bad controls must be bad in the way they say, and only in that way."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fend.models import build
from fend.pipeline import frozen

LENET = {"inner": {"architecture": "paper-lenet"}}


def control(name: str, classifier: nn.Module, **config: object) -> nn.Module:
    module = build(name, {**LENET, **config})
    module.inner.load_state_dict(classifier.state_dict())
    return frozen(module)


@pytest.mark.parametrize(
    "name", ["control-gradient-killer", "control-nan-gradient", "control-scaled-logits"]
)
def test_controls_answer_as_the_network_inside(name, digit_classifier, digit_batch):
    images, _ = digit_batch
    logits, plain = control(name, digit_classifier)(images), digit_classifier(images)
    assert torch.isfinite(logits).all()
    assert torch.equal(logits.argmax(1), plain.argmax(1))


def gradient_of(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(module(leaf), labels), leaf)
    return gradient


def test_the_gradient_killers_gradient_is_zero_or_not_there(digit_classifier, digit_batch):
    images, labels = digit_batch
    assert bool(gradient_of(digit_classifier, images, labels).any())
    killer = control("control-gradient-killer", digit_classifier)
    assert not bool(gradient_of(killer, images, labels).any())
    cut = control("control-gradient-killer", digit_classifier, cut=True)
    assert not cut(images.clone().requires_grad_(True)).requires_grad


def test_the_nan_controls_gradient_is_nan_everywhere(digit_classifier, digit_batch):
    nan = control("control-nan-gradient", digit_classifier)
    assert bool(gradient_of(nan, *digit_batch).isnan().all())


def test_scaled_logits_round_the_gradient_of_the_cross_entropy_away(digit_classifier, digit_batch):
    images, labels = digit_batch
    scaled = control("control-scaled-logits", digit_classifier)
    zero = ~gradient_of(scaled, images, labels).flatten(1).any(1)
    assert float(zero.float().mean()) > 0.9


def test_random_resize_is_never_the_same_and_stays_a_picture_of_the_digit(
    digit_classifier, digit_batch
):
    torch.manual_seed(0)
    images, labels = digit_batch
    resize = build("control-random-resize", {})
    once, again = resize(images), resize(images)
    assert once.shape == images.shape
    assert not torch.equal(once, again)
    assert not torch.equal(*resize(images[:1].repeat(2, 1, 1, 1)))  # each image its own draw
    assert 0 <= float(once.min()) <= float(once.max()) <= 1
    right = digit_classifier(once).argmax(1) == labels
    assert float(right.float().mean()) > 0.6
    unmoved = build("control-random-resize", {"smallest": 1.0})(images)
    assert torch.allclose(unmoved, images, atol=1e-5)
