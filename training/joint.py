"""Train denoiser and classifier together: adversarial training of the whole pipeline, with the
denoiser still held to the paper's loss.
"""

from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from fend.models import build
from fend.pipeline import Defence, frozen
from training.adversarial import make_adversarial, pair_terms
from training.data import Splits
from training.evaluate import accuracy, white_box_accuracy
from training.feature_cache import FeatureCache
from training.loop import Fit, Moment, Outcome, fit
from training.losses import FeatureLoss
from training.recipe import Recipe


def train_jointly(
    recipe: Recipe,
    classifier: nn.Module,
    loss_fn: FeatureLoss,
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
    """
    job = joint_fit(recipe, classifier, loss_fn.to(device), splits, device)
    console.print(
        f"[bold]denoiser and classifier[/] {recipe.denoiser.architecture}: {job.epochs} epochs "
        "together, on images made through both"
    )
    outcome = fit(job, folder, resume=resume, cut=cut, console=console)
    assert isinstance(job.module, Defence)
    return frozen(job.module.denoiser), frozen(job.module.classifier), outcome


def joint_fit(
    recipe: Recipe,
    classifier: nn.Module,
    loss_fn: FeatureLoss,
    splits: Splits,
    device: torch.device,
) -> Fit:
    """The training of a fresh denoiser with `classifier`.

    Equation 4 is on the adversarial images, as in the paper; clean ones are only compared in
    pixels, which costs no pass of the loss network.
    """
    section, losses, joint = recipe.denoiser, recipe.loss, recipe.joint
    assert losses is not None, "the recipe was checked"
    assert joint is not None, "the recipe was checked"
    adversarial, clean_weight = joint.adversarial, joint.clean_weight
    torch.manual_seed(recipe.seed + 1)
    defence = Defence(build(section.architecture, section.config).to(device), classifier)
    defence.requires_grad_(True)
    loss_fn.calibrate(splits.train.pixels(slice(0, 1_000)).to(device))
    features = FeatureCache(loss_fn.targets, len(splits.train), losses.cache_bytes)

    def loss(indices: Tensor, moment: Moment) -> dict[str, Tensor]:
        clean = splits.train.pixels(indices).to(device)
        labels = splits.train.labels[indices].to(device)
        shown = make_adversarial(adversarial, defence, clean, labels, moment)
        both = defence.denoiser(torch.cat([clean, shown]))
        clean_logits, logits = defence.classifier(both).chunk(2)
        kept, denoised = both.chunk(2)
        return {
            **pair_terms(adversarial, clean_logits, logits, labels),
            **loss_fn.terms(denoised, clean, features.get(indices, clean)),
            "clean_pixel": clean_weight * F.mse_loss(kept, clean),
        }

    def validate() -> dict[str, float]:
        figures = {
            "clean": accuracy(defence, splits.held_out),
            "white_box": white_box_accuracy(defence, splits.held_out, adversarial.threat),
        }
        return figures | {"score": sum(figures.values()) / len(figures)}

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
