"""What a denoiser is shown that learns from images made without it: once, or noise at each step."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from fend.datasets import ImageSet
from training.loop import Moment
from training.recipe import NoiseSection


class Shown(Protocol):
    """Where the training samples come from."""

    @property
    def samples(self) -> int:
        """How many samples make an epoch."""
        ...

    def batch(self, samples: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """Which images (N,) the samples are of, and the pixels (N,C,H,W) to show for them."""
        ...


class StaticShown:
    """Every image once an epoch in each of its variants. The paper's method."""

    def __init__(self, variants: Mapping[str, Tensor]) -> None:
        self._pixels = torch.stack(list(variants.values()))  # (variants, N, C, H, W)

    @property
    def samples(self) -> int:
        return self._pixels.shape[0] * self._pixels.shape[1]

    def batch(self, samples: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        del moment
        images = samples % self._pixels.shape[1]
        return images, self._pixels[samples // self._pixels.shape[1], images].float()


class NoisyShown:
    """Every image once an epoch, with Gaussian noise that is new each time.

    Not clipped to [0, 1]: a certificate is for the noise as it was drawn.
    """

    def __init__(self, section: NoiseSection, images: ImageSet) -> None:
        self._sigma = section.sigma
        self._images = images

    @property
    def samples(self) -> int:
        return len(self._images)

    def batch(self, samples: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        return samples, with_noise(self._images.pixels(samples), self._sigma, moment.generator)


def with_noise(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """`images` (N,C,H,W), on the CPU as the generator is, and Gaussian noise on each pixel."""
    return images + sigma * torch.randn(images.shape, generator=generator)
