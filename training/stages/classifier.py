"""The classifier behind the denoiser: trained here, or taken unchanged."""

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
from fend.datasets import ImageSet, InvalidDatasetError
from fend.models import build, parameter_count
from fend.pipeline import frozen
from training.augment import augmented, shifted_and_mirrored
from training.classifiers.foreign import ForeignInvalid, Origin, classifier_of
from training.classifiers.said import Said, read_labels
from training.evaluate import accuracy, white_box_accuracy
from training.loop import Fit, Fitted, StepContext, fit
from training.losses.adversarial import adversarial_terms
from training.recipe.schema import ClassifierSection
from training.stages.stage import Context


@dataclass(frozen=True)
class Classifier:
    """A frozen classifier, and what a bundle records of it."""

    architecture: str
    config: dict[str, Any]
    module: nn.Module
    fitted: Fitted | None
    """Result of its training; None where it was taken from a bundle."""
    origin: Origin | None = None
    """Source of a foreign classifier."""
    labels: tuple[str, ...] | None = None
    """What it calls its classes; None where it is trained here, or nobody says."""


def obtain_classifier(section: ClassifierSection, context: Context) -> Classifier:
    """The classifier of the recipe.

    Classifiers are kept in `context.shared_dir` by the digest of their inputs, so that recipes
    that share one train it once; a second process waits for the first. A stopped training always
    continues, whatever `context.resume` says.

    Raises:
        Unavailable: `classifier.from_bundle` cannot be used.
        ForeignInvalid: `classifier.factory` or its weights cannot be used, or its classes are other
            ones.
        Invalid: `context.cut`, and there is no finished epoch (`nothing_to_cut`).
    """
    if section.from_bundle is not None:
        return _from_bundle(Path(section.from_bundle), context)
    if section.factory is not None:
        return _foreign(section.factory, section, context)
    # The only draw of the global generator: layers take their first weights from it.
    torch.manual_seed(context.seed)
    module, console = (
        build(section.architecture, section.config).to(context.device),
        context.console,
    )
    how = f", {section.adversarial.kind}" if section.adversarial else ""
    console.print(f"[bold]classifier[/] {section.architecture}: {section.epochs} epochs{how}")
    folder = context.shared_dir / "classifiers" / _digest(section, context)
    folder.mkdir(parents=True, exist_ok=True)
    with nullcontext() if context.cut else _locked(folder / "lock", console):
        job = _job(module, section, context)
        fitted = fit(job, folder, resume=True, cut=context.cut, console=console)
    figures = "  ".join(f"{name} {value:.4f}" for name, value in fitted.figures.items())
    console.print(f"classifier: held out: {figures}", highlight=False)
    return Classifier(section.architecture, dict(section.config), frozen(module), fitted)


@contextmanager
def _locked(path: Path, console: Console) -> Iterator[None]:
    """Hold the lock; prints a line while another process has it."""
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


def _from_bundle(folder: Path, context: Context) -> Classifier:
    content = read_manifest(folder).content
    component, own = content.classifier, tuple(content.labels)
    labels = by_label(context.splits.held_out, len(own), own, str(folder)).label_names
    module = load_bundle(folder, context.device).defence.classifier
    return Classifier(component.architecture, component.config, module, None, labels=labels)


def _foreign(source: str, section: ClassifierSection, context: Context) -> Classifier:
    spec, held_out = context.input, context.splits.held_out
    said = Said(
        channels=spec.channels,
        size_px=(spec.height_px, spec.width_px),
        mean=section.mean,
        std=section.std,
        bgr=section.bgr,
        labels=None if section.labels is None else read_labels(Path(section.labels)),
    )
    torch.manual_seed(context.seed)  # in case code of the user's draws weights
    weights = None if section.weights is None else Path(section.weights)
    taken = classifier_of(source, weights=weights, said=said)
    held_out = by_label(held_out, taken.classes, taken.labels, source)
    network = taken.module.to(context.device)
    right = accuracy(network, held_out)
    steps = len(taken.config["steps"])
    context.console.print(
        f"[bold]classifier[/] {source}, as it is: {steps} steps, "
        f"{parameter_count(network):,} parameters; held out: accuracy {right:.4f}",
        highlight=False,
    )
    for note in taken.origin.notes if taken.origin else ():
        context.console.print(f"classifier: {note}", highlight=False)
    fitted = Fitted({"accuracy": right, "score": right}, 0)
    return Classifier(
        taken.architecture, taken.config, network, fitted, taken.origin, held_out.label_names
    )


def by_label(
    images: ImageSet, classes: int, labels: tuple[str, ...] | None, source: str
) -> ImageSet:
    """`images` with their labels counted as the classifier counts its `classes`: by label where the
    classifier knows all of theirs, else by position where there are as many.

    Raises:
        ForeignInvalid: neither.
    """
    unknown = "nobody says what it calls its classes"
    if labels is not None:
        try:
            return images.relabelled(labels)
        except InvalidDatasetError as error:
            unknown = str(error)
    if len(images.label_names) == classes:
        return images
    raise ForeignInvalid(
        f"{source} gives {classes} logits, and the images are of {len(images.label_names)} classes:"
        f" {unknown}; name the classes of the images as the classifier does (--labels FILE, or "
        "--labels imagenet, says how)"
    )


def _digest(section: ClassifierSection, context: Context) -> str:
    parts = [section.model_dump_json(), context.data.model_dump_json(), str(context.seed)]
    if context.augment is not None:
        parts.append(context.augment.model_dump_json())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _job(classifier: nn.Module, section: ClassifierSection, context: Context) -> Fit:
    splits, device = context.splits, context.device

    def loss(indices: Tensor, step: StepContext) -> dict[str, Tensor]:
        images = splits.train.pixels(indices).to(device)
        labels = splits.train.labels[indices].to(device)
        if section.augment:
            images = shifted_and_mirrored(images, step.generator)
        if context.augment is not None:
            images = augmented(images, context.augment, step.generator)
        if section.adversarial is not None:
            return adversarial_terms(section.adversarial, classifier, images, labels, step)
        return {"cross_entropy": F.cross_entropy(classifier(images), labels)}

    def validate(module: nn.Module) -> dict[str, float]:
        figures = {"accuracy": accuracy(module, splits.held_out)}
        if section.adversarial is not None:
            threat = section.adversarial.threat
            figures["white_box"] = white_box_accuracy(module, splits.held_out, threat)
        return figures | {"score": sum(figures.values()) / len(figures)}

    return Fit(
        classifier,
        section.optimiser,
        section.epochs,
        section.batch_size,
        len(splits.train),
        context.seed,
        loss,
        validate,
        average=section.average,
        precision=torch.bfloat16 if section.precision else torch.float32,
    )
