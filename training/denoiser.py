"""Train the denoiser: adversarial images in, clean images and their feature maps as the target."""

from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from fend.attacks import PGD, attack
from fend.datasets import ImageSet
from fend.models import build
from fend.pipeline import Defence, frozen
from training.adversaries import make_adversaries
from training.classifier import accuracy
from training.data import Splits
from training.feature_cache import FeatureCache
from training.loop import Fit, Moment, Outcome, fit
from training.loss_networks import load_loss_network
from training.losses import FeatureLoss
from training.recipe import LossSection, Recipe
from training.shown import OnlineShown, Shown, StaticShown


def train_denoiser(
    recipe: Recipe,
    classifier: nn.Module,
    splits: Splits,
    folder: Path,
    cache: Path,
    *,
    data_dir: Path | None,
    resume: bool,
    cut: bool,
    device: torch.device,
    console: Console,
) -> tuple[nn.Module, Outcome]:
    """The trained denoiser (frozen), and how its training went.

    The loss network only shapes the loss: it is in no bundle and in no served path.
    """
    section = recipe.denoiser
    loss_fn = _feature_loss(recipe.loss, data_dir).to(device)
    train = _variants(recipe, classifier, splits, cache, console, held_out=False)
    held_out = _variants(recipe, classifier, splits, cache, console, held_out=True)
    torch.manual_seed(recipe.seed + 1)
    denoiser = build(section.architecture, section.config).to(device)
    loss_fn.calibrate(splits.train.pixels(slice(0, 1_000)).to(device))
    features = FeatureCache(loss_fn.targets, len(splits.train), recipe.loss.cache_bytes)
    defence = Defence(denoiser, classifier)
    shown = _shown(recipe, splits, train, defence)

    def loss(samples: Tensor, moment: Moment) -> dict[str, Tensor]:
        images, pixels = shown.batch(samples, moment)
        clean = splits.train.pixels(images).to(device)
        denoised = denoiser(pixels.to(device))
        terms = loss_fn.terms(denoised, clean, features.get(images, clean))
        if recipe.loss.task_weight:
            labels = splits.train.labels[images].to(device)
            error = F.cross_entropy(classifier(denoised), labels)
            terms["task"] = recipe.loss.task_weight * error
        return terms

    def validate() -> dict[str, float]:
        figures = {
            name: accuracy(defence, splits.held_out, pixels) for name, pixels in held_out.items()
        }
        scored = [figures[name] for name in train]
        if recipe.online is not None:
            figures["white_box"] = _white_box(recipe, defence, splits.held_out)
            scored.append(figures["white_box"])
        return figures | {"score": sum(scored) / len(scored)}

    def pictures() -> Tensor:
        return _grid(denoiser, splits, held_out, device)

    console.print(
        f"[bold]denoiser[/] {section.architecture}: {section.epochs} epochs on "
        f"{', '.join(train)} with {recipe.loss.network or 'no'} loss network"
    )
    job = Fit(
        denoiser,
        section.optimiser,
        section.epochs,
        section.batch_size,
        shown.samples,
        recipe.seed + 1,
        loss,
        validate,
        pictures,
    )
    outcome = fit(job, folder, resume=resume, cut=cut, console=console)
    return frozen(denoiser), outcome


WHITE_BOX_IMAGES = 500
"""Held-out images that are attacked after each epoch of an online training."""


def _white_box(recipe: Recipe, defence: Defence, images: ImageSet) -> float:
    """Accuracy under PGD-10 through the whole pipeline: weak, but comparable between epochs."""
    chosen = slice(0, WHITE_BOX_IMAGES)
    device = next(defence.parameters()).device
    pixels, labels = images.pixels(chosen).to(device), images.labels[chosen].to(device)
    result = attack(PGD(steps=10), defence, pixels, labels, recipe.adversaries.threat)
    return 1.0 - float(result.fooled.float().mean())


def _shown(recipe: Recipe, splits: Splits, static: dict[str, Tensor], defence: Defence) -> Shown:
    if recipe.online is None:
        return StaticShown(static)
    return OnlineShown(recipe.online, recipe.adversaries.threat, splits.train, static, defence)


def _feature_loss(section: LossSection, data_dir: Path | None) -> FeatureLoss:
    network = None
    if section.network is not None:
        network = load_loss_network(
            section.network, section.taps, data_dir, input_px=section.input_px
        )
    return FeatureLoss(
        network,
        scaling=section.scaling,
        feature_weight=section.feature_weight,
        pixel_weight=section.pixel_weight,
    )


def _variants(
    recipe: Recipe,
    classifier: nn.Module,
    splits: Splits,
    cache: Path,
    console: Console,
    *,
    held_out: bool,
) -> dict[str, Tensor]:
    """What the denoiser is shown, by name: float16 (N,C,H,W) each.

    Held-out images always come clean too, since clean accuracy is always reported.
    """
    section = recipe.adversaries
    images = splits.held_out if held_out else splits.train
    variants: dict[str, Tensor] = {}
    for attacker in section.attacks:
        # Two attacks of one kind, say PGD on two losses, are told apart by a number.
        again = sum(name.startswith(attacker.name) for name in variants)
        name = f"{attacker.name}-{again + 1}" if again else attacker.name
        variants[name] = make_adversaries(
            attacker,
            classifier,
            images,
            section.threat,
            seed=recipe.seed,
            cache=cache,
            console=console,
        )
    if section.include_clean or held_out:
        variants["clean"] = images.pixels(slice(None)).half()
    return variants


@torch.no_grad()
def _grid(
    denoiser: nn.Module, splits: Splits, held_out: dict[str, Tensor], device: torch.device
) -> Tensor:
    """Eight columns; rows: clean, then each variant and what the denoiser makes of it."""
    rows = [splits.held_out.pixels(slice(0, 8))]
    for pixels in held_out.values():
        shown = pixels[:8].float()
        rows += [shown, denoiser(shown.to(device)).cpu().clamp(0, 1)]
    strips = [torch.cat(list(F.pad(row, (1, 1, 1, 1), value=0.5)), dim=2) for row in rows]
    return torch.cat(strips, dim=1)
