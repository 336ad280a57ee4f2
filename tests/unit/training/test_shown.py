"""What the denoiser is shown: static variants, and images attacked as it learns."""

import pytest
import torch

from fend.attacks import PGD
from fend.datasets import ImageSet
from fend.models import build
from fend.pipeline import Defence
from fend.threat import ThreatModel
from training.loop import Moment
from training.recipe import OnlineSection
from training.shown import OnlineShown, StaticShown

COUNT = 40


@pytest.fixture(scope="module")
def images() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (COUNT, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return ImageSet("noise", pixels, torch.arange(COUNT) % 10, tuple("0123456789"))


@pytest.fixture(scope="module")
def defence() -> Defence:
    torch.manual_seed(0)
    return Defence(build("residual-unet", {"width": 4}), build("paper-lenet", {})).eval()


def _moment(progress: float, seed: int = 0) -> Moment:
    return Moment(progress, torch.Generator().manual_seed(seed))


def _online(images, defence, **options) -> OnlineShown:
    section = OnlineSection(attack=PGD(steps=3, early_stop=False), **options)
    static = {"dark": torch.zeros_like(images.pixels(slice(None))).half()}
    return OnlineShown(section, ThreatModel(epsilon=0.2), images, static, defence)


def test_static_samples_are_every_variant_of_every_image_once(images) -> None:
    clean = images.pixels(slice(None))
    shown = StaticShown({"clean": clean.half(), "negative": (1 - clean).half()})
    assert shown.samples == 2 * COUNT
    which, pixels = shown.batch(torch.arange(shown.samples), _moment(0))
    assert sorted(which.tolist()) == sorted([*range(COUNT), *range(COUNT)])
    assert torch.allclose(pixels[:COUNT], clean[which[:COUNT]], atol=1e-3)
    assert torch.allclose(pixels[COUNT:], 1 - clean[which[COUNT:]], atol=1e-3)


def test_online_images_are_within_an_epsilon_that_grows(images, defence) -> None:
    clean = images.pixels(slice(None))
    for progress, allowed in ((0.0, 0.0), (0.25, 0.1), (0.5, 0.2), (0.9, 0.2)):
        shown = _online(images, defence, share=1, ramp=0.5)
        which, pixels = shown.batch(torch.arange(COUNT), _moment(progress))
        distance = float((pixels - clean[which]).abs().max())
        assert distance == pytest.approx(allowed, abs=1e-5)


def test_online_images_hurt_the_pipeline_as_it_is_now(images, defence) -> None:
    shown = _online(images, defence, share=1, ramp=0)
    which, pixels = shown.batch(torch.arange(COUNT), _moment(0.5))
    labels = images.labels[which]
    clean = images.pixels(which)
    signs = torch.randint(0, 2, clean.shape, generator=torch.Generator().manual_seed(3))
    noise = (clean + 0.2 * (2 * signs - 1)).clamp(0, 1)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy
        harm = float(loss(defence(pixels), labels) - loss(defence(clean), labels))
        chance = float(loss(defence(noise), labels) - loss(defence(clean), labels))
    assert harm > 0.05
    assert harm > 5 * abs(chance)


def test_the_share_and_the_seed_decide_who_is_attacked(images, defence) -> None:
    shown = _online(images, defence, share=0.5, ramp=0)
    _, first = shown.batch(torch.arange(COUNT), _moment(0.5, seed=1))
    _, again = shown.batch(torch.arange(COUNT), _moment(0.5, seed=1))
    _, other = shown.batch(torch.arange(COUNT), _moment(0.5, seed=2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    attacked = int((first.flatten(1).amax(1) > 0).sum())
    assert COUNT * 0.2 < attacked < COUNT * 0.8


def test_making_images_leaves_the_denoiser_as_it_learns(images, defence) -> None:
    defence.denoiser.train()
    _online(images, defence, share=1, ramp=0).batch(torch.arange(4), _moment(0.5))
    assert defence.denoiser.training
    assert all(parameter.grad is None for parameter in defence.parameters())
    defence.denoiser.eval()
