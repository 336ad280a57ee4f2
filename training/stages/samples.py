"""A denoiser's training samples that do not depend on it: static images, or noise at each step."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from fend.datasets import ImageSet
from training.loop import StepContext


class Samples(Protocol):
    """Source of the training samples."""

    @property
    def count(self) -> int:
        """Number of samples in an epoch."""
        ...

    def batch(self, samples: Tensor, step: StepContext) -> tuple[Tensor, Tensor]:
        """The numbers (N,) of the samples' images, and the pixels (N,C,H,W) to learn from."""
        ...


class StaticSamples:
    """Every image once an epoch in each of its variants. The paper's method."""

    def __init__(self, variants: Mapping[str, Tensor]) -> None:
        self._pixels = torch.stack(list(variants.values()))  # (variants, N, C, H, W)

    @property
    def count(self) -> int:
        return self._pixels.shape[0] * self._pixels.shape[1]

    def batch(self, samples: Tensor, step: StepContext) -> tuple[Tensor, Tensor]:
        del step
        images = samples % self._pixels.shape[1]
        return images, self._pixels[samples // self._pixels.shape[1], images].float()


class NoisySamples:
    """Every image once an epoch, with fresh Gaussian noise.

    Not clipped to [0, 1]: a certificate covers unclipped noise.
    """

    def __init__(self, sigma: float, images: ImageSet) -> None:
        self._sigma = sigma
        self._images = images

    @property
    def count(self) -> int:
        return len(self._images)

    def batch(self, samples: Tensor, step: StepContext) -> tuple[Tensor, Tensor]:
        return samples, with_noise(self._images.pixels(samples), self._sigma, step.generator)


def with_noise(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """`images` (N,C,H,W) plus Gaussian noise on each pixel; on the CPU, as the generator."""
    return images + sigma * torch.randn(images.shape, generator=generator)
