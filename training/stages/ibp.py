"""Interval bound propagation (Gowal et al. 2018) through denoiser and classifier: the loss is the
worst case that the bounds allow in a box around each image, so robustness can be proved.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fend.datasets import ImageSet
from fend.guarantees.intervals import Bounds, Interval, box, verified
from fend.models import build
from fend.pipeline import Defence, frozen
from fend.threat import ThreatModel
from training.evaluate import accuracy, device_of, white_box_accuracy
from training.loop import Fit, StepContext, fit
from training.losses.adversarial import ramped
from training.recipe.schema import IbpSection
from training.stages.stage import Context, Outcome


def train_by_bounds(section: IbpSection, classifier: nn.Module, context: Context) -> Outcome:
    """The stage of `[ibp]`: denoiser and classifier learn together.

    Raises:
        NotBounded: one of the networks has an operation without bounds.
    """
    job = ibp_fit(section, classifier, context)
    context.console.print(
        f"[bold]denoiser and classifier[/] {context.denoiser.architecture}: {job.epochs} epochs "
        "together, by interval bounds"
    )
    fitted = fit(
        job, context.run_dir, resume=context.resume, cut=context.cut, console=context.console
    )
    defence = frozen(job.module)
    assert isinstance(defence, Defence)
    return Outcome(defence.denoiser, defence.classifier, fitted.figures, fitted.epochs)


def ibp_fit(ibp: IbpSection, classifier: nn.Module, context: Context) -> Fit:
    """The training of a fresh denoiser with `classifier`.

    Epsilon grows, and with it the share of the worst case in the cross-entropy. The pixel term is
    equation 4's at the worst case of the bounds: the denoiser should map the whole box to the
    clean image.
    """
    section, splits, device = context.denoiser, context.splits, context.device
    threat = ThreatModel(norm="linf", epsilon=ibp.epsilon)
    torch.manual_seed(context.seed + 1)
    defence = Defence(build(section.architecture, section.config).to(device), classifier)
    defence.requires_grad_(True)
    of_denoiser, of_classifier = Bounds(defence.denoiser), Bounds(defence.classifier)

    def loss(indices: Tensor, step: StepContext) -> dict[str, Tensor]:
        clean = splits.train.pixels(indices).to(device)
        labels = splits.train.labels[indices].to(device)
        allowed, share = ramped(threat, step.progress, ibp.ramp)
        worst_share = share * ibp.worst_share
        denoised = of_denoiser.outputs(box(clean, allowed.epsilon))
        margins = of_classifier.margins(denoised, labels)
        return {
            "cross_entropy": (1 - worst_share) * F.cross_entropy(defence(clean), labels),
            "worst_cross_entropy": worst_share * F.cross_entropy(margins, labels),
            "worst_pixel": ibp.pixel_weight * _worst_square(denoised, clean),
        }

    def validate(whole: nn.Module) -> dict[str, float]:
        tested = ThreatModel(norm="linf", epsilon=ibp.tested_epsilon)
        figures = {
            "clean": accuracy(whole, splits.held_out),
            "white_box": white_box_accuracy(whole, splits.held_out, tested),
            "verified": verified_accuracy(whole, splits.held_out, tested.epsilon),
        }
        return figures | {"score": (figures["clean"] + figures["verified"]) / 2}

    return Fit(
        defence,
        section.optimiser,
        section.epochs,
        section.batch_size,
        len(splits.train),
        context.seed + 1,
        loss,
        validate,
        average=section.average,
    )


def verified_accuracy(model: nn.Module, images: ImageSet, epsilon: float) -> float:
    """Share of `images` that `model` provably labels right in the whole L-inf ball of radius
    `epsilon`."""
    bounds = Bounds(model)
    device, proved = device_of(model), 0
    for indices in torch.split(torch.arange(len(images)), 500):
        pixels, labels = images.pixels(indices).to(device), images.labels[indices].to(device)
        proved += int(verified(bounds, pixels, labels, epsilon).sum())
    return proved / len(images)


def _worst_square(denoised: Interval, clean: Tensor) -> Tensor:
    """Mean square of the largest distance from `clean` that each pixel can have."""
    farthest = torch.maximum(denoised.upper - clean, clean - denoised.lower)
    return farthest.square().mean()
