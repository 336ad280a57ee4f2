"""Adversarial training of the whole pipeline, with the denoiser still held to the paper's loss.

Images are made at each step through denoiser and classifier as they are then. With `[online]` only
the denoiser learns from them, so it protects a classifier as it is; with `[joint]` both do.
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


def train_online(
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

    With `[joint]`, `classifier` is where the classifier starts; it is changed in place.
    """
    job = online_fit(recipe, classifier, loss_fn, splits, device)
    learning = "denoiser and classifier" if recipe.joint is not None else "denoiser"
    console.print(
        f"[bold]{learning}[/] {recipe.denoiser.architecture}: {job.epochs} epochs on images made "
        "through the whole pipeline"
    )
    outcome = fit(job, folder, resume=resume, cut=cut, console=console)
    denoiser = job.module.denoiser if isinstance(job.module, Defence) else job.module
    return frozen(denoiser), frozen(classifier), outcome


def online_fit(
    recipe: Recipe,
    classifier: nn.Module,
    loss_fn: FeatureLoss,
    splits: Splits,
    device: torch.device,
) -> Fit:
    """The training of a fresh denoiser in front of `classifier`, or of both.

    Equation 4 is on the adversarial images, as in the paper; clean ones are only compared in
    pixels, which costs no pass of the loss network.
    """
    section, losses, made = recipe.denoiser, recipe.loss, recipe.joint or recipe.online
    assert losses is not None, "the recipe was checked"
    assert made is not None, "the recipe was checked"
    adversarial, clean_weight = made.adversarial, made.clean_weight
    task_weight = losses.task_weight if recipe.joint is None else 1.0
    torch.manual_seed(recipe.seed + 1)
    denoiser = build(section.architecture, section.config).to(device)
    if recipe.joint is not None:
        classifier.requires_grad_(True)
    else:
        frozen(classifier)
    defence = Defence(denoiser, classifier)
    loss_fn.calibrate(splits.train.pixels(slice(0, 1_000)).to(device))
    features = FeatureCache(loss_fn.targets, len(splits.train), losses.cache_bytes)

    def loss(indices: Tensor, moment: Moment) -> dict[str, Tensor]:
        clean = splits.train.pixels(indices).to(device)
        labels = splits.train.labels[indices].to(device)
        shown = make_adversarial(adversarial, defence, clean, labels, moment)
        if recipe.joint is None:
            classifier.eval()  # its statistics, too, stay as they are
        both = defence.denoiser(torch.cat([clean, shown]))
        clean_logits, logits = defence.classifier(both).chunk(2)
        kept, denoised = both.chunk(2)
        task = pair_terms(adversarial, clean_logits, logits, labels)
        return {
            **{name: task_weight * term for name, term in task.items() if task_weight},
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
        denoiser if recipe.joint is None else defence,
        section.optimiser,
        section.epochs,
        section.batch_size,
        len(splits.train),
        recipe.seed + 1,
        loss,
        validate,
        average=section.average,
    )
