"""The classifier behind the denoiser: trained here on clean images, or taken from a bundle."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from fend.bundle import load_bundle, read_manifest
from fend.datasets import ImageSet
from fend.models import build
from fend.pipeline import frozen
from training.data import Splits
from training.loop import Fit, Moment, fit
from training.recipe import ClassifierSection, Recipe


def obtain_classifier(
    recipe: Recipe, splits: Splits, folder: Path, *, device: torch.device, console: Console
) -> tuple[str, dict[str, Any], nn.Module]:
    """(architecture, configuration, frozen classifier) as the recipe wants it.

    Classifiers are kept in `folder` by what decides them, so that recipes that share one train it
    once.

    Raises:
        BundleError: `classifier.from_bundle` cannot be used.
    """
    section = recipe.classifier
    if section.from_bundle is not None:
        place = Path(section.from_bundle)
        component = read_manifest(place).content.classifier
        classifier = load_bundle(place, device).defence.classifier
        return component.architecture, component.config, classifier
    # The only draw of the global generator: layers take their first weights from it.
    torch.manual_seed(recipe.seed)
    classifier = build(section.architecture, section.config).to(device)
    console.print(f"[bold]classifier[/] {section.architecture}: {section.epochs} epochs")
    job = _job(classifier, section, splits, recipe.seed, device)
    place = folder / _digest(recipe)
    outcome = fit(job, place, resume=True, console=console)
    held_out = outcome.figures["accuracy"]
    console.print(f"classifier: held-out accuracy {held_out:.4f}", highlight=False)
    return section.architecture, dict(section.config), frozen(classifier)


def _digest(recipe: Recipe) -> str:
    parts = (recipe.classifier.model_dump_json(), recipe.data.model_dump_json(), str(recipe.seed))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _job(
    classifier: nn.Module,
    section: ClassifierSection,
    splits: Splits,
    seed: int,
    device: torch.device,
) -> Fit:
    def loss(indices: Tensor, _: Moment) -> dict[str, Tensor]:
        logits = classifier(splits.train.pixels(indices).to(device))
        return {"cross_entropy": F.cross_entropy(logits, splits.train.labels[indices].to(device))}

    def validate() -> dict[str, float]:
        value = accuracy(classifier, splits.held_out)
        return {"accuracy": value, "score": value}

    return Fit(
        classifier,
        section.optimiser,
        section.epochs,
        section.batch_size,
        len(splits.train),
        seed,
        loss,
        validate,
    )


@torch.no_grad()
def accuracy(model: nn.Module, images: ImageSet, pixels: Tensor | None = None) -> float:
    """The share of `images` that `model` labels right; `pixels` (N,C,H,W) may stand in for them."""
    device = next(model.parameters()).device
    right = 0
    for indices in torch.split(torch.arange(len(images)), 500):
        batch = images.pixels(indices) if pixels is None else pixels[indices].float()
        answers = model(batch.to(device)).argmax(1).cpu()
        right += int((answers == images.labels[indices]).sum())
    return right / len(images)
