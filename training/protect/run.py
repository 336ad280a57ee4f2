"""From a classifier and images to a bundle, with what it cost and what it brought."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from fend import __version__
from fend.audit.render.terminal import in_words
from fend.bundles import Manifest, SuspicionRule, save_bundle
from fend.datasets import ImageSet, InvalidDatasetError, load
from fend.errors import Unavailable
from fend.files import replace_atomically
from fend.models import build, parameter_count
from training.classifiers import ForeignClassifier
from training.data import Splits, load_splits
from training.export import SMALLEST_THRESHOLD
from training.line import run_recipe
from training.protect.compare import COMPARED_IMAGES, compare
from training.protect.cost import Cost, cost_of
from training.protect.recipe import TEMPLATE, Choice, as_toml, recipe_for
from training.recipe import Recipe
from training.recipe.files import load_recipe, overlaid
from training.stages.classifier import by_label
from training.stages.stage import Context


@dataclass(frozen=True)
class Places:
    """Where things are, and what computes."""

    data_dir: Path
    models_dir: Path
    runs_dir: Path
    device: torch.device
    console: Console = field(default_factory=Console)


def protect(
    choice: Choice,
    classifier: ForeignClassifier,
    places: Places,
    *,
    minutes: float | None = None,
    changes: list[str],
    resume: bool = False,
) -> Manifest:
    """Train a denoiser in front of `classifier`, export both, and compare.

    The recipe is written to the runs folder, from where `resume` takes it again. `minutes` limits
    epochs, and images if need be.

    Raises:
        FendError: what does not fit, before anything is trained.
    """
    console = places.console
    images = load(
        choice.train, places.data_dir, classifier.input, skip_bad=choice.skip_bad,
        tell=lambda message: console.print(message, highlight=False, soft_wrap=True),
    )  # fmt: skip
    _check(images, classifier, choice)
    file = places.runs_dir / f"{choice.name}.toml"
    table = recipe_for(choice, classifier, len(images), places.data_dir)
    resumes = resume and file.is_file()
    if not resumes:
        replace_atomically(file, as_toml(table))
    recipe = load_recipe(str(file), changes=changes)
    splits = load_splits(recipe.data, recipe.input, recipe.seed, places.data_dir)
    if recipe.denoiser.epochs:
        compared = len(splits.held_out) if choice.smoke else COMPARED_IMAGES
        cost = replace(_cost(recipe, splits, classifier, places), compared=compared)
        if minutes is not None and not resumes and not choice.smoke:
            shorter = cost.within(minutes, recipe, len(splits.train))
            replace_atomically(file, as_toml(overlaid(table, shorter)))
            recipe = load_recipe(str(file), changes=changes)
        _tell_cost(recipe, cost, len(splits.train), file, console)
    folder = places.models_dir / recipe.name
    manifest = run_recipe(
        recipe, data_dir=places.data_dir, bundle_dir=folder, runs_dir=places.runs_dir,
        resume=resume, device=places.device, console=console,
    )  # fmt: skip
    if recipe.denoiser.epochs:
        judged = splits.held_out if recipe.data.test == recipe.data.train else splits.test
        judged = judged.relabelled(tuple(manifest.content.labels))
        network = classifier.module.to(places.device)
        rows = compare(network, folder, judged, compared, places.device)
        shown = Table("", "classifier alone", "protected", title=f"{judged.name}, white-box")
        for key, (alone, protected) in rows.items():
            shown.add_row(key, f"{alone:.1%}", f"{protected:.1%}")
        console.print(shown)
    return manifest


def _check(images: ImageSet, classifier: ForeignClassifier, choice: Choice) -> None:
    """Refuse images that nothing can be learnt from, or that the classifier does not know."""
    if len(set(images.labels.tolist())) < 2:
        raise InvalidDatasetError(
            f"{images.name} holds images of one class, "
            f"{images.label_names[int(images.labels[0])]}; two or more are needed"
        )
    if len(images) < 2:
        raise InvalidDatasetError(f"{images.name} holds one image; two or more are needed")
    source = choice.classifier.get("factory") or choice.classifier["from_bundle"]
    by_label(images, classifier.classes, classifier.labels, source)


def _cost(recipe: Recipe, splits: Splits, classifier: ForeignClassifier, places: Places) -> Cost:
    """The cost of a trial; raises Unavailable where even a batch is too much."""
    counted = by_label(splits.train, classifier.classes, classifier.labels, recipe.name)
    splits = splits.relabelled(counted.label_names)
    context = Context.of(
        recipe, splits, data_dir=places.data_dir, runs_dir=places.runs_dir,
        device=places.device, console=places.console,
    )  # fmt: skip
    try:
        return cost_of(recipe, classifier.module.to(places.device), context)
    except torch.OutOfMemoryError as error:
        raise Unavailable(
            "a batch does not fit into the GPU's memory; take fewer images at once with "
            "--set denoiser.batch_size=8",
            code="recipe_invalid",
        ) from error


def _tell_cost(recipe: Recipe, cost: Cost, images: int, file: Path, console: Console) -> None:
    images = min(images, recipe.data.limit or images)
    console.print(
        f"about {in_words(cost.total_s(recipe, images))}, by a short trial: "
        f"{recipe.denoiser.epochs} epochs of {images:,} images at {cost.image_s:.2f} s an image, "
        f"and attacks on held-out images; {cost.memory_bytes / 2**30:.1f} GiB of memory\n"
        f"recipe: {file} (--minutes, or --set data.limit=... and denoiser.epochs=..., change it)",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if recipe.loss is not None and recipe.loss.network is None:
        console.print(
            "without a loss network: none is in the data directory (loss-networks), so the loss is "
            "on pixels and the classifier's answers alone",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def identity_bundle(folder: Path, name: str, classifier: ForeignClassifier) -> Manifest:
    """A bundle of the classifier behind a denoiser that does nothing, which no image is needed
    for: to serve it, and to audit it as it is."""
    origin = None if classifier.origin is None else classifier.origin.about()
    source = name if origin is None else origin["factory"]
    summary = f"The classifier {source} as it is: the denoiser does nothing."
    labels = classifier.labels or tuple(map(str, range(classifier.classes)))
    unnamed = "" if classifier.labels else ", whose names nobody has said"
    lines = [
        f"# {name}\n\n{summary}\n",
        f"- Classifier: {parameter_count(classifier.module):,} parameters, {len(labels)} classes"
        f"{unnamed}.",
        *(f"- {note}." for note in ([] if origin is None else origin["notes"])),
        "- Nothing was measured: `fend audit` does.\n",
    ]
    return save_bundle(
        folder,
        name=name,
        input_spec=classifier.input,
        labels=list(labels),
        denoiser=("identity", {}, build("identity", {})),
        classifier=(classifier.architecture, classifier.config, classifier.module),
        suspicion=SuspicionRule(threshold=SMALLEST_THRESHOLD, false_positive_rate=0.0),
        about={
            "summary": summary,
            "foreign_classifier": origin,
            "threat": load_recipe(TEMPLATE).model_dump(mode="json")["threat"],
            "made_with": {"fend": __version__, "torch": torch.__version__},
        },
        card="\n".join(lines),
    )
