"""Randomised smoothing (Cohen et al. 2019): a pipeline's answer under Gaussian noise, and the L2
distance within which no perturbation of the image can change it.

The smoothed classifier answers with the class that the pipeline gives most often to the image plus
noise of standard deviation sigma. If that class has probability p > 1/2, it stays the answer
for every perturbation shorter than sigma * Phi^-1(p). p is not known but bounded from below by
sampling, so a certificate is wrong with probability at most `alpha`; where the bound is not
above 1/2, the classifier abstains.

With a denoiser trained to remove this noise, this is denoised smoothing (Salman et al. 2020).
"""

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor, nn

from fend.bundles import Bundle, Manifest
from fend.client.answers import Certified
from fend.errors import Invalid

SELECTION_SAMPLES = 100
"""Draws that choose the class, separate from those that certify it; Cohen et al.'s number."""

SAMPLES = 1_000
"""Draws that certify. The radius is at most 2.46 sigma with 1,000 of them, 3.20 with 10,000."""

ALPHA = 0.001
"""Cohen et al.'s probability of a wrong certificate."""

DRAWS_AT_A_TIME = 100
_BISECTIONS = 60


@dataclass(frozen=True)
class Certificate:
    """The guarantee for one image."""

    index: int | None
    """The class of the smoothed classifier; None where it abstains."""
    radius: float
    """L2 length, on the pixel scale, below which no perturbation changes the class."""

    @property
    def abstained(self) -> bool:
        """Whether nothing is certified."""
        return self.index is None


def certify(
    model: nn.Module,
    images: Tensor,
    seeds: Sequence[int],
    *,
    sigma: float,
    samples: int = SAMPLES,
    selection_samples: int = SELECTION_SAMPLES,
    alpha: float = ALPHA,
    on_batch: Callable[[], object] = lambda: None,
) -> list[Certificate]:
    """A certificate for each of `images` (N,C,H,W) in [0, 1], in order.

    `model` maps such images to logits (N, classes), in eval mode. The noise of each image depends
    on its own entry of `seeds` alone. `on_batch` is called before each pass of the model and may
    raise to give up.
    """
    certificates = []
    for image, seed in zip(images, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        chosen = _count(model, image, selection_samples, sigma, generator, on_batch).argmax()
        counts = _count(model, image, samples, sigma, generator, on_batch)
        certificates.append(_certificate(int(chosen), int(counts[chosen]), samples, sigma, alpha))
    return certificates


def sigma_of(manifest: Manifest) -> float:
    """The standard deviation of the noise that a bundle is certified with.

    Raises:
        Invalid (`not_certifiable`): the bundle was not trained for any.
    """
    smoothing = manifest.content.smoothing
    if smoothing is None:
        raise Invalid(
            f"the model {manifest.name!r} was not trained on noise, so its answers cannot be "
            "certified; ask without certify, or ask a model that has a sigma",
            code="not_certifiable",
        )
    return smoothing.sigma


def new_seed() -> int:
    """An unpredictable seed: whoever knows the noise can search for images on which it errs."""
    return secrets.randbits(48)


def certify_image(
    bundle: Bundle,
    pixels: Tensor,
    seed: int,
    *,
    samples: int = SAMPLES,
    on_batch: Callable[[], object] = lambda: None,
) -> Certified:
    """The certificate of a bundle for one image (C,H,W), as the API returns it.

    Raises:
        Invalid (`not_certifiable`): the bundle was not trained on noise.
    """
    sigma = sigma_of(bundle.manifest)
    images = pixels.unsqueeze(0)
    [certificate] = certify(
        bundle.defence, images, [seed], sigma=sigma, samples=samples, on_batch=on_batch
    )
    index = certificate.index
    return Certified(
        label=None if index is None else bundle.labels[index],
        index=index,
        abstained=certificate.abstained,
        radius_l2=certificate.radius,
        sigma=sigma,
        samples=samples,
        alpha=ALPHA,
        seed=seed,
    )


def lower_bound(successes: int, trials: int, alpha: float) -> float:
    """The exact one-sided lower bound of a probability (Clopper and Pearson 1934).

    It is the p at which `successes` or more of `trials` have probability `alpha`; the true
    probability is below it with probability `alpha` at most.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes do not fit {trials} trials")
    if successes == 0:
        return 0.0
    counts = torch.arange(successes, trials + 1, dtype=torch.float64)
    ways = (
        math.lgamma(trials + 1) - torch.lgamma(counts + 1) - torch.lgamma(trials - counts + 1)
    )  # logarithms, since the binomials overflow
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        terms = ways + counts * math.log(middle) + (trials - counts) * math.log1p(-middle)
        if float(terms.logsumexp(0)) < math.log(alpha):
            low = middle
        else:
            high = middle
    return low


def _certificate(
    index: int, successes: int, samples: int, sigma: float, alpha: float
) -> Certificate:
    probability = lower_bound(successes, samples, alpha)
    if probability <= 0.5:
        return Certificate(None, 0.0)
    return Certificate(index, sigma * NormalDist().inv_cdf(probability))


@torch.inference_mode()
def _count(
    model: nn.Module,
    image: Tensor,
    draws: int,
    sigma: float,
    generator: torch.Generator,
    on_batch: Callable[[], object],
) -> Tensor:
    """How many of `draws` noisy copies of `image` (C,H,W) get each class: (classes,)."""
    counts: Tensor | None = None
    for start in range(0, draws, DRAWS_AT_A_TIME):
        on_batch()
        size = min(DRAWS_AT_A_TIME, draws - start)
        noise = torch.randn((size, *image.shape), generator=generator).to(image.device)
        logits = model(image + sigma * noise)
        voting = logits[logits.isfinite().all(1)]  # a NaN or infinite answer is no vote
        votes = torch.bincount(voting.argmax(1), minlength=logits.shape[1])
        counts = votes if counts is None else counts + votes
    assert counts is not None, "there is at least one draw"
    return counts
