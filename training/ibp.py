"""Interval bound propagation (Gowal et al. 2018) through denoiser and classifier: the loss is of
the worst that the bounds allow in a box around each image, so what is learnt can be proved.
"""

from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from fend.bounds import Bounds, Interval, box, verified
from fend.datasets import ImageSet
from fend.models import build
from fend.pipeline import Defence, frozen
from fend.threat import ThreatModel
from training.data import Splits
from training.evaluate import accuracy, device_of, white_box_accuracy
from training.loop import Fit, Moment, Outcome, fit
from training.ramp import grown
from training.recipe import Recipe


def train_by_bounds(
    recipe: Recipe,
    classifier: nn.Module,
    splits: Splits,
    folder: Path,
    *,
    resume: bool,
    cut: bool,
    device: torch.device,
    console: Console,
) -> tuple[nn.Module, nn.Module, Outcome]:
    """The trained denoiser and classifier (frozen), and how their training went.

    `classifier` is where the classifier starts; it is changed in place.

    Raises:
        NotBounded: one of the networks does something that cannot be bounded.
    """
    job = ibp_fit(recipe, classifier, splits, device)
    console.print(
        f"[bold]denoiser and classifier[/] {recipe.denoiser.architecture}: {job.epochs} epochs "
        "together, by interval bounds"
    )
    outcome = fit(job, folder, resume=resume, cut=cut, console=console)
    assert isinstance(job.module, Defence)
    return frozen(job.module.denoiser), frozen(job.module.classifier), outcome


def ibp_fit(recipe: Recipe, classifier: nn.Module, splits: Splits, device: torch.device) -> Fit:
    """The training of a fresh denoiser with `classifier`.

    Epsilon grows, and with it the share of the worst case in the cross-entropy. The pixel term is
    equation 4's, at the worst that the bounds allow: the denoiser is to bring all of the box to
    the clean image.
    """
    section, ibp = recipe.denoiser, recipe.ibp
    assert ibp is not None, "the recipe was checked"
    threat = ThreatModel(norm="linf", epsilon=ibp.epsilon)
    torch.manual_seed(recipe.seed + 1)
    defence = Defence(build(section.architecture, section.config).to(device), classifier)
    defence.requires_grad_(True)
    of_denoiser, of_classifier = Bounds(defence.denoiser), Bounds(defence.classifier)
    of_defence = Bounds(defence)

    def loss(indices: Tensor, moment: Moment) -> dict[str, Tensor]:
        clean = splits.train.pixels(indices).to(device)
        labels = splits.train.labels[indices].to(device)
        allowed, share = grown(threat, moment.progress, ibp.ramp)
        worst_share = share * ibp.worst_share
        denoised = of_denoiser.outputs(box(clean, allowed.epsilon))
        margins = of_classifier.margins(denoised, labels)
        return {
            "cross_entropy": (1 - worst_share) * F.cross_entropy(defence(clean), labels),
            "worst_cross_entropy": worst_share * F.cross_entropy(margins, labels),
            "worst_pixel": ibp.pixel_weight * _worst_square(denoised, clean),
        }

    def validate() -> dict[str, float]:
        tested = ThreatModel(norm="linf", epsilon=ibp.tested_epsilon)
        figures = {
            "clean": accuracy(defence, splits.held_out),
            "white_box": white_box_accuracy(defence, splits.held_out, tested),
            "verified": verified_accuracy(of_defence, defence, splits.held_out, tested.epsilon),
        }
        return figures | {"score": (figures["clean"] + figures["verified"]) / 2}

    return Fit(
        defence,
        section.optimiser,
        section.epochs,
        section.batch_size,
        len(splits.train),
        recipe.seed + 1,
        loss,
        validate,
        average=section.average,
    )


def verified_accuracy(bounds: Bounds, model: nn.Module, images: ImageSet, epsilon: float) -> float:
    """The share of `images` that `model`, whose bounds these are, provably labels right in the
    whole L-inf ball of radius `epsilon`."""
    device, proved = device_of(model), 0
    for indices in torch.split(torch.arange(len(images)), 500):
        pixels, labels = images.pixels(indices).to(device), images.labels[indices].to(device)
        proved += int(verified(bounds, pixels, labels, epsilon).sum())
    return proved / len(images)


def _worst_square(denoised: Interval, clean: Tensor) -> Tensor:
    """The mean square of the largest distance from `clean` that a pixel can have."""
    farthest = torch.maximum(denoised.upper - clean, clean - denoised.lower)
    return farthest.square().mean()
