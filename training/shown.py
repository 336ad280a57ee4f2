"""What the denoiser is shown: images made once, or at each step against the denoiser itself."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from fend.attacks import attack
from fend.datasets import ImageSet
from fend.pipeline import Defence
from fend.threat import ThreatModel
from training.evaluate import device_of
from training.loop import Moment
from training.ramp import grown
from training.recipe import NoiseSection, OnlineSection


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


class OnlineShown:
    """Every image once an epoch: a share of them attacked through the denoiser as it is now, the
    others in one of their static variants.

    Static adversarial images do not depend on the denoiser that learns from them, and a denoiser
    that learns from them alone falls to a white-box attacker (Liao et al.'s did, the paper's does).
    """

    def __init__(
        self,
        section: OnlineSection,
        threat: ThreatModel,
        images: ImageSet,
        variants: Mapping[str, Tensor],
        defence: Defence,
    ) -> None:
        self._section = section
        self._threat = threat
        self._images = images
        self._static = torch.stack(list(variants.values()))  # (variants, N, C, H, W)
        self._defence = defence

    @property
    def samples(self) -> int:
        return len(self._images)

    def batch(self, samples: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        draw, count = moment.generator, len(samples)
        variant = torch.randint(len(self._static), (count,), generator=draw)
        online = torch.rand(count, generator=draw) < self._section.share
        seed = int(torch.randint(2**31, (1,), generator=draw))
        shown = self._static[variant, samples].float()
        if bool(online.any()):
            shown[online] = self._attack(samples[online], seed, moment.progress)
        return samples, shown

    def _attack(self, indices: Tensor, seed: int, progress: float) -> Tensor:
        threat, _ = grown(self._threat, progress, self._section.ramp)
        device = device_of(self._defence)
        learning = self._defence.denoiser.training
        self._defence.denoiser.eval()
        result = attack(
            self._section.attack,
            self._defence,
            self._images.pixels(indices).to(device),
            self._images.labels[indices].to(device),
            threat,
            seed=seed,
            sample_ids=indices.tolist(),
        )
        self._defence.denoiser.train(learning)
        return result.adversarial.cpu()
