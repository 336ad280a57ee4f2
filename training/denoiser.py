"""Train the denoiser: attacked or noisy images in, clean ones and their feature maps as target."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from fend.datasets import ImageSet
from fend.models import build
from fend.pipeline import Defence, frozen
from training.adversaries import make_adversaries
from training.data import Splits
from training.evaluate import accuracy
from training.feature_cache import FeatureCache
from training.guide import ClassifierGuide, GuideTap
from training.loop import Fit, Moment, Outcome, fit
from training.loss_networks import LossNetwork, load_loss_network
from training.losses import FeatureLoss
from training.recipe import AdversariesSection, LossSection, Recipe, RecipeError
from training.shown import NoisyShown, Shown, StaticShown, with_noise


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
    losses, adversaries = recipe.loss, recipe.adversaries
    assert losses is not None, "the recipe was checked"
    loss_fn = feature_loss(losses, classifier, data_dir, device)
    train: dict[str, Tensor] = {}
    held_out: dict[str, Tensor] = {}
    if adversaries is not None:
        train, held_out = (
            _variants(adversaries, recipe.seed, classifier, images, cache, console)
            for images in (splits.train, splits.held_out)
        )
        if adversaries.include_clean:
            train["clean"] = splits.train.pixels(slice(None)).half()
    if recipe.noise is not None:
        draw = torch.Generator().manual_seed(recipe.seed)
        clean = splits.held_out.pixels(slice(None))
        held_out["noisy"] = with_noise(clean, recipe.noise.sigma, draw).half()
    held_out["clean"] = splits.held_out.pixels(slice(None)).half()  # always reported
    job = denoiser_fit(recipe, classifier, loss_fn, splits, train, held_out, device)
    maps = f" and feature maps of {losses.network}" if loss_fn.network is not None else ""
    console.print(
        f"[bold]denoiser[/] {recipe.denoiser.architecture}: {job.epochs} epochs on "
        f"{', '.join(train) or 'noisy images'}; loss on pixels{maps}"
    )
    outcome = fit(job, folder, resume=resume, cut=cut, console=console)
    return frozen(job.module), outcome


def denoiser_fit(
    recipe: Recipe,
    classifier: nn.Module,
    loss_fn: FeatureLoss,
    splits: Splits,
    train: Mapping[str, Tensor],
    held_out: Mapping[str, Tensor],
    device: torch.device,
) -> Fit:
    """The training of a fresh denoiser.

    `train` and `held_out` are what was made of the images beforehand, by name: (N,C,H,W) each. What
    is in both selects the best epoch, or noisy images where noise is learnt from.
    """
    section, losses = recipe.denoiser, recipe.loss
    assert losses is not None, "the recipe was checked"
    task_weight = losses.task_weight
    torch.manual_seed(recipe.seed + 1)
    denoiser = build(section.architecture, section.config).to(device)
    loss_fn.calibrate(splits.train.pixels(slice(0, 1_000)).to(device))
    features = FeatureCache(loss_fn.targets, len(splits.train), losses.cache_bytes)
    defence = Defence(denoiser, classifier)
    shown = _shown(recipe, splits.train, train)
    selecting = list(train) if recipe.noise is None else ["noisy"]

    def loss(samples: Tensor, moment: Moment) -> dict[str, Tensor]:
        images, pixels = shown.batch(samples, moment)
        clean = splits.train.pixels(images).to(device)
        denoised = denoiser(pixels.to(device))
        terms = loss_fn.terms(denoised, clean, features.get(images, clean))
        if task_weight:
            labels = splits.train.labels[images].to(device)
            terms["task"] = task_weight * F.cross_entropy(classifier(denoised), labels)
        return terms

    def validate() -> dict[str, float]:
        figures = {
            name: accuracy(defence, splits.held_out, pixels) for name, pixels in held_out.items()
        }
        scored = [figures[name] for name in selecting]
        return figures | {"score": sum(scored) / len(scored)}

    def pictures() -> Tensor:
        return _grid(denoiser, splits, held_out, device)

    return Fit(
        denoiser,
        section.optimiser,
        section.epochs,
        section.batch_size,
        shown.samples,
        recipe.seed + 1,
        loss,
        validate,
        pictures,
        section.average,
    )


def feature_loss(
    section: LossSection, classifier: nn.Module, data_dir: Path | None, device: torch.device
) -> FeatureLoss:
    """The loss of a recipe on `device`, its network loaded, and compiled for a GPU.

    TORCH_COMPILE_DISABLE=1, torch's own switch, leaves it as it is.

    Raises:
        LossNetworkError: the loss network is not to be had.
        RecipeError: the classifier has no features to guide by.
    """
    network = _feature_network(section, classifier, data_dir)
    if isinstance(network, LossNetwork) and device.type == "cuda":
        network.compile()
    return FeatureLoss(
        network,
        scaling=section.scaling,
        feature_weight=section.feature_weight,
        pixel_weight=section.pixel_weight,
        distance=section.distance,
        precision=torch.float32 if section.precision is None else torch.bfloat16,
    ).to(device)


def _shown(recipe: Recipe, images: ImageSet, static: Mapping[str, Tensor]) -> Shown:
    if recipe.noise is not None:
        return NoisyShown(recipe.noise, images)
    return StaticShown(static)


def _feature_network(
    section: LossSection, classifier: nn.Module, data_dir: Path | None
) -> nn.Module | None:
    """What the loss takes its feature maps from."""
    if section.network is None or not section.feature_weight:
        return None
    if section.network != "classifier":
        return load_loss_network(section.network, section.taps, data_dir, input_px=section.input_px)
    try:
        return ClassifierGuide(classifier, cast(GuideTap, section.taps))  # the recipe was checked
    except ValueError as error:
        raise RecipeError(f"loss.taps: {error}") from error


def _variants(
    section: AdversariesSection,
    seed: int,
    classifier: nn.Module,
    images: ImageSet,
    cache: Path,
    console: Console,
) -> dict[str, Tensor]:
    """What static attacks make of `images`, by name: float16 (N,C,H,W) each."""
    variants: dict[str, Tensor] = {}
    for attacker in section.attacks:
        # Two attacks of one kind, say PGD on two losses, are told apart by a number.
        again = sum(name.startswith(attacker.name) for name in variants)
        name = f"{attacker.name}-{again + 1}" if again else attacker.name
        variants[name] = make_adversaries(
            attacker, classifier, images, section.threat, seed=seed, cache=cache, console=console
        )
    return variants


@torch.no_grad()
def _grid(
    denoiser: nn.Module, splits: Splits, held_out: Mapping[str, Tensor], device: torch.device
) -> Tensor:
    """Eight columns; rows: clean, then each variant and what the denoiser makes of it."""
    rows = [splits.held_out.pixels(slice(0, 8))]
    for pixels in held_out.values():
        shown = pixels[:8].float()
        rows += [shown, denoiser(shown.to(device)).cpu().clamp(0, 1)]
    strips = [torch.cat(list(F.pad(row, (1, 1, 1, 1), value=0.5)), dim=2) for row in rows]
    return torch.cat(strips, dim=1)
