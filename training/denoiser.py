"""Train the denoiser: adversarial images in, clean images and their feature maps as the target."""

from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from fend.models import build
from fend.pipeline import Defence, frozen
from training.adversaries import make_adversaries
from training.classifier import accuracy
from training.data import Splits
from training.feature_cache import FeatureCache
from training.loop import Fit, fit
from training.loss_networks import load_loss_network
from training.losses import FeatureLoss
from training.recipe import LossSection, Recipe


def train_denoiser(
    recipe: Recipe,
    classifier: nn.Module,
    splits: Splits,
    folder: Path,
    cache: Path,
    *,
    data_dir: Path | None,
    resume: bool,
    device: torch.device,
    console: Console,
) -> tuple[nn.Module, dict[str, float]]:
    """The trained denoiser (frozen) and its held-out figures.

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
    names = list(train)
    shown_images = torch.stack(list(train.values()))  # (variants, N, C, H, W)

    def loss(samples: Tensor, _: torch.Generator) -> dict[str, Tensor]:
        # A sample is one variant of one image.
        images = samples % len(splits.train)
        shown = shown_images[samples // len(splits.train), images]
        clean = splits.train.pixels(images).to(device)
        denoised = denoiser(shown.float().to(device))
        return loss_fn.terms(denoised, clean, features.get(images, clean))

    defence = Defence(denoiser, classifier)

    def validate() -> dict[str, float]:
        figures = {
            name: accuracy(defence, splits.held_out, pixels) for name, pixels in held_out.items()
        }
        shown = [figures[name] for name in names]
        return figures | {"score": sum(shown) / len(shown)}

    def pictures() -> Tensor:
        return _grid(denoiser, splits, held_out, device)

    console.print(
        f"[bold]denoiser[/] {section.architecture}: {section.epochs} epochs on "
        f"{', '.join(names)} with {recipe.loss.network or 'no'} loss network"
    )
    job = Fit(
        denoiser,
        section.optimiser,
        section.epochs,
        section.batch_size,
        len(names) * len(splits.train),
        recipe.seed + 1,
        loss,
        validate,
        pictures,
    )
    figures = fit(job, folder, resume=resume, console=console)
    return frozen(denoiser), figures


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
