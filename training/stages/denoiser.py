"""Training of the denoiser, from attacked or noisy images to clean ones and their feature maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from fend.datasets import ImageSet
from fend.models import build
from fend.pipeline import Defence, frozen
from training.evaluate import accuracy
from training.loop import Fit, StepContext, fit
from training.losses.cache import FeatureCache
from training.losses.feature_loss import FeatureLoss
from training.recipe.schema import AdversariesSection, DenoiserSection, NoiseSection
from training.stages.adversaries import make_adversaries
from training.stages.samples import NoisySamples, Samples, StaticSamples, with_noise
from training.stages.stage import Context, Outcome


def train_on_adversaries(
    section: AdversariesSection, classifier: nn.Module, context: Context
) -> Outcome:
    """The stage of `[adversaries]`: the denoiser learns from images attacked beforehand."""
    loss_fn, splits = context.feature_loss(classifier), context.splits
    train, held_out = (
        _variants(
            section, context.seed, classifier, images, context.shared_dir / "adversaries",
            context.console,
        )
        for images in (splits.train, splits.held_out)
    )  # fmt: skip
    if section.include_clean:
        train["clean"] = splits.train.pixels(slice(None)).half()
    held_out["clean"] = splits.held_out.pixels(slice(None)).half()  # always reported
    job = denoiser_fit(
        StaticSamples(train), held_out, classifier, loss_fn, context, selecting=list(train)
    )
    return _train(job, loss_fn, ", ".join(train), classifier, context)


def train_on_noise(section: NoiseSection, classifier: nn.Module, context: Context) -> Outcome:
    """The stage of `[noise]`: the denoiser learns from images with Gaussian noise."""
    loss_fn, splits = context.feature_loss(classifier), context.splits
    draw = torch.Generator().manual_seed(context.seed)
    clean = splits.held_out.pixels(slice(None))
    held_out = {"noisy": with_noise(clean, section.sigma, draw).half(), "clean": clean.half()}
    samples = NoisySamples(section.sigma, splits.train)
    job = denoiser_fit(samples, held_out, classifier, loss_fn, context, selecting=["noisy"])
    return _train(job, loss_fn, "noisy images", classifier, context)


def leave_untrained(section: DenoiserSection, classifier: nn.Module, context: Context) -> Outcome:
    """The stage of a denoiser that learns nothing, such as a median filter."""
    denoiser = frozen(build(section.architecture, section.config).to(context.device))
    figures = {"clean": accuracy(Defence(denoiser, classifier), context.splits.held_out)}
    return Outcome(denoiser, classifier, figures, 0)


def _train(
    job: Fit, loss_fn: FeatureLoss, images: str, classifier: nn.Module, context: Context
) -> Outcome:
    # The loss network is part of the loss alone: no bundle and no served pipeline holds it.
    maps = f" and feature maps of {context.loss.network}" if loss_fn.network is not None else ""
    context.console.print(
        f"[bold]denoiser[/] {context.denoiser.architecture}: {job.epochs} epochs on {images}; "
        f"loss on pixels{maps}"
    )
    fitted = fit(
        job, context.run_dir, resume=context.resume, cut=context.cut, console=context.console
    )
    return Outcome(frozen(job.module), classifier, fitted.figures, fitted.epochs)


def denoiser_fit(
    samples: Samples,
    held_out: Mapping[str, Tensor],
    classifier: nn.Module,
    loss_fn: FeatureLoss,
    context: Context,
    *,
    selecting: Sequence[str],
) -> Fit:
    """The training of a fresh denoiser.

    `held_out` maps names to variants (N,C,H,W) of the held-out images. The mean accuracy on those
    in `selecting` selects the best epoch.
    """
    section, splits, device = context.denoiser, context.splits, context.device
    task_weight = context.loss.task_weight
    torch.manual_seed(context.seed + 1)
    denoiser = build(section.architecture, section.config).to(device)
    loss_fn.calibrate(splits.train, device)
    features = FeatureCache(loss_fn.targets, len(splits.train), context.loss.cache_bytes)

    def loss(indices: Tensor, step: StepContext) -> dict[str, Tensor]:
        images, pixels = samples.batch(indices, step)
        clean = splits.train.pixels(images).to(device)
        denoised = denoiser(pixels.to(device))
        terms = loss_fn.terms(denoised, clean, features.get(images, clean))
        if task_weight:
            labels = splits.train.labels[images].to(device)
            terms["task"] = task_weight * F.cross_entropy(classifier(denoised), labels)
        return terms

    def validate(module: nn.Module) -> dict[str, float]:
        defence = Defence(module, classifier)
        figures = {
            name: accuracy(defence, splits.held_out, pixels) for name, pixels in held_out.items()
        }
        scored = [figures[name] for name in selecting]
        return figures | {"score": sum(scored) / len(scored)}

    def pictures(module: nn.Module) -> Tensor:
        return _grid(module, splits.held_out, held_out, device)

    return Fit(
        denoiser,
        section.optimiser,
        section.epochs,
        section.batch_size,
        samples.count,
        context.seed + 1,
        loss,
        validate,
        pictures,
        section.average,
    )


def _variants(
    section: AdversariesSection,
    seed: int,
    classifier: nn.Module,
    images: ImageSet,
    cache: Path,
    console: Console,
) -> dict[str, Tensor]:
    """`images` under each static attack, by name: float16 (N,C,H,W) each."""
    variants: dict[str, Tensor] = {}
    for attacker in section.attacks:
        # Attacks of one kind, such as PGD on two losses, are numbered.
        again = sum(name.startswith(attacker.name) for name in variants)
        name = f"{attacker.name}-{again + 1}" if again else attacker.name
        variants[name] = make_adversaries(
            attacker, classifier, images, section.threat, seed=seed, cache=cache, console=console
        )
    return variants


@torch.no_grad()
def _grid(
    denoiser: nn.Module, clean: ImageSet, held_out: Mapping[str, Tensor], device: torch.device
) -> Tensor:
    """Eight columns; rows: clean, then each variant before and after the denoiser."""
    rows = [clean.pixels(slice(0, 8))]
    for pixels in held_out.values():
        shown = pixels[:8].float()
        rows += [shown, denoiser(shown.to(device)).cpu().clamp(0, 1)]
    strips = [torch.cat(list(F.pad(row, (1, 1, 1, 1), value=0.5)), dim=2) for row in rows]
    return torch.cat(strips, dim=1)
