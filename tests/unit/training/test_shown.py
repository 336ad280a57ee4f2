"""What a denoiser is shown: static variants of every image."""

import pytest
import torch

from fend.datasets import ImageSet
from training.loop import Moment
from training.shown import StaticShown

COUNT = 40


@pytest.fixture(scope="module")
def images() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (COUNT, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return ImageSet("noise", pixels, torch.arange(COUNT) % 10, tuple("0123456789"))


def _moment(progress: float, seed: int = 0) -> Moment:
    return Moment(progress, torch.Generator().manual_seed(seed))


def test_static_samples_are_every_variant_of_every_image_once(images) -> None:
    clean = images.pixels(slice(None))
    shown = StaticShown({"clean": clean.half(), "negative": (1 - clean).half()})
    assert shown.samples == 2 * COUNT
    which, pixels = shown.batch(torch.arange(shown.samples), _moment(0))
    assert sorted(which.tolist()) == sorted([*range(COUNT), *range(COUNT)])
    assert torch.allclose(pixels[:COUNT], clean[which[:COUNT]], atol=1e-3)
    assert torch.allclose(pixels[COUNT:], 1 - clean[which[COUNT:]], atol=1e-3)
