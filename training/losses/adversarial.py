"""Adversarial training of the classifier: the losses of Madry et al., TRADES and ALP.

The images are made at each step, on the classifier's device and in eval mode; the loss is computed
in train mode, as TRADES' authors do.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fend.threat import ThreatModel
from training.loop import StepContext
from training.recipe.schema import AdversarialSection

TRADES_START_STD = 0.001
"""Noise of TRADES' start next to the image: at the image itself its divergence has no gradient."""

N_FGSM_NOISE = 2.0
"""Largest noise of N-FGSM, in epsilon."""


def adversarial_terms(
    section: AdversarialSection,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    step: StepContext,
) -> dict[str, Tensor]:
    """The terms of the loss on clean `images` (N,C,H,W) in [0, 1] with `labels` (N,)."""
    adversarial = make_adversarial(section, classifier, images, labels, step)
    if section.kind == "madry":
        return {"cross_entropy": _cross_entropy(section, classifier(adversarial), labels)}
    # One pass for both, so that batch statistics cover both.
    clean_logits, logits = classifier(torch.cat([images, adversarial])).chunk(2)
    return pair_terms(section, clean_logits, logits, labels)


def pair_terms(
    section: AdversarialSection, clean_logits: Tensor, logits: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """The terms of the loss, from the logits (N, classes) of clean and adversarial images; Madry et
    al. leave the clean ones out."""
    if section.kind == "madry":
        return {"cross_entropy": _cross_entropy(section, logits, labels)}
    assert section.weight is not None, "the recipe was checked"
    if section.kind == "trades":
        divergence = kl_divergence(clean_logits, logits) / len(labels)
        return {
            "cross_entropy": _cross_entropy(section, clean_logits, labels),
            "divergence": section.weight * divergence,
        }
    both = [_cross_entropy(section, each, labels) for each in (clean_logits, logits)]
    pairing = (clean_logits - logits).square().sum(1).mean()
    return {"cross_entropy": (both[0] + both[1]) / 2, "pairing": section.weight * pairing}


def _cross_entropy(section: AdversarialSection, logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=section.label_smoothing)


def make_adversarial(
    section: AdversarialSection,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    step: StepContext,
) -> Tensor:
    """Adversarial images (N,C,H,W) against `classifier`, which is left in train mode."""
    threat, share = ramped(section.threat, step.progress, section.ramp)
    step_size = (section.step_size or 2.5 * section.threat.epsilon / section.steps) * share
    classifier.eval()
    if section.attack == "n-fgsm":
        adversarial = _one_step_from_noise(
            classifier, images, labels, threat.epsilon, section.weakest, step.generator
        )
        classifier.train()
        return adversarial
    if section.kind == "trades":
        noise = torch.randn(images.shape, generator=step.generator).to(images.device)
        start = threat.project(images, images + TRADES_START_STD * noise)
        with torch.no_grad():
            clean_logits = classifier(images)

        def value(logits: Tensor) -> Tensor:
            return kl_divergence(clean_logits, logits)
    else:
        seeds = torch.randint(2**31, (len(images),), generator=step.generator)
        start = threat.random_start(images, seeds.tolist())

        def value(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels, reduction="sum")

    adversarial = _ascend(classifier, value, images, start, threat, section.steps, step_size)
    classifier.train()
    return adversarial


def _one_step_from_noise(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    most: float,
    weakest: float,
    generator: torch.Generator,
) -> Tensor:
    """N-FGSM with an epsilon for each image from `weakest` times `most` to `most`.

    The noise stays in the image, which is therefore up to three epsilon from the clean one;
    projecting or clipping it would bring catastrophic overfitting back.
    """
    drawn = torch.rand(len(images), 1, 1, 1, generator=generator).to(images.device)
    epsilon = most * (weakest + (1 - weakest) * drawn)
    noise = 2 * torch.rand(images.shape, generator=generator).to(images.device) - 1
    leaf = (images + N_FGSM_NOISE * epsilon * noise).requires_grad_(True)
    with _weights_frozen(classifier):
        value = F.cross_entropy(classifier(leaf), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(value, leaf)
    return leaf.detach() + epsilon * gradient.sign()


def kl_divergence(clean_logits: Tensor, logits: Tensor) -> Tensor:
    """KL divergence of `logits` from `clean_logits`, both (N, classes): nats, summed."""
    return F.kl_div(
        F.log_softmax(logits, dim=1),
        F.log_softmax(clean_logits, dim=1),
        log_target=True,
        reduction="sum",
    )


def _ascend(
    classifier: nn.Module,
    value: Callable[[Tensor], Tensor],
    images: Tensor,
    start: Tensor,
    threat: ThreatModel,
    steps: int,
    step_size: float,
) -> Tensor:
    """Projected gradient ascent on `value` of the logits; returns the last iterate.

    Not `fend.attacks`, whose judge costs two more passes: training needs no verdict.
    """
    current = start
    with _weights_frozen(classifier):
        for _ in range(steps):
            leaf = current.requires_grad_(True)
            (gradient,) = torch.autograd.grad(value(classifier(leaf)), leaf)
            current = threat.project(images, threat.step(leaf.detach(), gradient, step_size))
    return current


@contextmanager
def _weights_frozen(module: nn.Module) -> Iterator[None]:
    """Inside, weights need no gradient: `ImageConv2d` would compute it in vain, which costs a
    quarter of the time of a small network's attack."""
    learning = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in learning:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)


def ramped(threat: ThreatModel, progress: float, ramp: float) -> tuple[ThreatModel, float]:
    """The threat model at `progress` 0..1 of a training, and its share of the full epsilon.

    Epsilon grows linearly from 0 over the fraction `ramp` of the training.
    """
    share = min(1.0, progress / ramp) if ramp else 1.0
    return threat.model_copy(update={"epsilon": threat.epsilon * share}), share
