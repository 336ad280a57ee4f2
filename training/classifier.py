"""The classifier behind the denoiser: trained here, or taken as it is."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from fend.bundles import load_bundle, read_manifest
from fend.models import build, parameter_count
from fend.pipeline import frozen
from training.adversarial import adversarial_terms
from training.augment import augmented
from training.data import Splits
from training.evaluate import accuracy, white_box_accuracy
from training.foreign import ARCHITECTURE, Origin, take
from training.loop import Fit, Moment, Outcome, fit
from training.recipe import ClassifierSection, Recipe


@dataclass(frozen=True)
class Classifier:
    """A frozen classifier, and what a bundle says of it."""

    architecture: str
    config: dict[str, Any]
    module: nn.Module
    outcome: Outcome | None
    """How its training went; None where it was taken as it is."""
    origin: Origin | None = None
    """Of a classifier that code of the user's made."""


def obtain_classifier(
    recipe: Recipe,
    splits: Splits,
    folder: Path,
    *,
    device: torch.device,
    console: Console,
    cut: bool = False,
) -> Classifier:
    """The classifier as the recipe wants it.

    Classifiers are kept in `folder` by what decides them, so that recipes that share one train it
    once, and a stopped training goes on: of two processes one waits. `cut` trains no further.

    Raises:
        Unavailable: `classifier.from_bundle` cannot be used.
        ForeignInvalid: `classifier.factory` or its weights cannot be used.
        NothingToCut: `cut`, and there is no finished epoch.
    """
    section = recipe.classifier
    if section.from_bundle is not None:
        place = Path(section.from_bundle)
        component = read_manifest(place).content.classifier
        taken = load_bundle(place, device).defence.classifier
        return Classifier(component.architecture, component.config, taken, None)
    if section.factory is not None:
        return _foreign(section.factory, section.weights, recipe, splits, device, console)
    # The only draw of the global generator: layers take their first weights from it.
    torch.manual_seed(recipe.seed)
    module = build(section.architecture, section.config).to(device)
    how = f", {section.adversarial.kind}" if section.adversarial else ""
    console.print(f"[bold]classifier[/] {section.architecture}: {section.epochs} epochs{how}")
    job = _job(module, section, splits, recipe.seed, device)
    own = folder / _digest(recipe)
    own.mkdir(parents=True, exist_ok=True)
    with nullcontext() if cut else _turn(own / "lock", console):
        outcome = fit(job, own, resume=True, cut=cut, console=console)
    figures = "  ".join(f"{name} {value:.4f}" for name, value in outcome.figures.items())
    console.print(f"classifier: held out: {figures}", highlight=False)
    return Classifier(section.architecture, dict(section.config), frozen(module), outcome)


@contextmanager
def _turn(path: Path, console: Console) -> Iterator[None]:
    """Holds the lock; says so where another process has it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print("another process is training this classifier: waiting for it to finish")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _foreign(
    factory: str,
    weights: str | None,
    recipe: Recipe,
    splits: Splits,
    device: torch.device,
    console: Console,
) -> Classifier:
    path = None if weights is None else Path(weights)
    torch.manual_seed(recipe.seed)  # in case the factory draws weights
    network, config, origin = take(factory, path, recipe.input, len(splits.train.label_names))
    network = network.to(device)
    right = accuracy(network, splits.held_out)
    console.print(
        f"[bold]classifier[/] {factory}, as it is: {len(config['steps'])} steps, "
        f"{parameter_count(network):,} parameters; held out: accuracy {right:.4f}",
        highlight=False,
    )
    return Classifier(
        ARCHITECTURE, config, network, Outcome({"accuracy": right, "score": right}, 0), origin
    )


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
    def loss(indices: Tensor, moment: Moment) -> dict[str, Tensor]:
        images = splits.train.pixels(indices).to(device)
        labels = splits.train.labels[indices].to(device)
        if section.augment:
            images = augmented(images, moment.generator)
        if section.adversarial is not None:
            return adversarial_terms(section.adversarial, classifier, images, labels, moment)
        return {"cross_entropy": F.cross_entropy(classifier(images), labels)}

    def validate() -> dict[str, float]:
        figures = {"accuracy": accuracy(classifier, splits.held_out)}
        if section.adversarial is not None:
            threat = section.adversarial.threat
            figures["white_box"] = white_box_accuracy(classifier, splits.held_out, threat)
        return figures | {"score": sum(figures.values()) / len(figures)}

    return Fit(
        classifier,
        section.optimiser,
        section.epochs,
        section.batch_size,
        len(splits.train),
        seed,
        loss,
        validate,
        average=section.average,
    )
