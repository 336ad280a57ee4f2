"""data -> classifier -> adversaries -> denoiser -> bundle."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.console import Console
from torch import nn

from fend.bundles import Manifest
from fend.models import build, parameter_count
from fend.pipeline import Defence, frozen
from training.classifier import Classifier, obtain_classifier
from training.data import Splits, load_splits
from training.denoiser import feature_loss, train_denoiser
from training.evaluate import accuracy
from training.export import export_bundle
from training.foreign import digest_of
from training.ibp import train_by_bounds
from training.loop import Outcome
from training.online import train_online
from training.recipe import Recipe, RecipeError


def run_recipe(
    recipe: Recipe,
    *,
    data_dir: Path | None,
    bundle_dir: Path,
    runs_dir: Path,
    resume: bool,
    cut: bool = False,
    device: torch.device,
    console: Console,
    about: Mapping[str, Any] | None = None,
) -> Manifest:
    """Everything that `fend train` does; returns the manifest of the bundle at `bundle_dir`.

    The denoiser's checkpoints go to `runs_dir/<name>`. Classifiers and adversarial images are kept
    under `runs_dir` by the digest of what made them, shared by all recipes; they always resume.
    `cut` trains no further and exports the best checkpoint so far. `about` is added to what the
    manifest says of the bundle.

    Raises:
        RecipeError: what the recipe asks for does not fit together, or `resume` or `cut` would go
            on with the run of another recipe.
        FendError: data, a loss network or a bundle that is not there.
    """
    splits = load_splits(recipe.data, recipe.input, recipe.seed, data_dir)
    _check_networks(recipe, len(splits.train.label_names))
    learns = recipe.denoiser.epochs > 0
    folder = runs_dir / recipe.name
    if learns:
        _claim(folder, recipe, goes_on=resume or cut)
    classifier = obtain_classifier(
        recipe,
        splits,
        runs_dir / "classifiers",
        device=device,
        console=console,
        cut=cut and not learns,
    )
    if learns and recipe.classifier.taken:
        _claim_classifier(folder, classifier.module, goes_on=resume or cut)
    if recipe.ibp is not None:
        denoiser, module, outcome = train_by_bounds(
            recipe,
            classifier.module,
            splits,
            folder,
            resume=resume,
            cut=cut,
            device=device,
            console=console,
        )
        classifier = replace(classifier, module=module)
    elif recipe.online is not None or recipe.joint is not None:
        assert recipe.loss is not None, "the recipe was checked"
        denoiser, module, outcome = train_online(
            recipe,
            classifier.module,
            feature_loss(recipe.loss, classifier.module, data_dir, device),
            splits,
            folder,
            resume=resume,
            cut=cut,
            device=device,
            console=console,
        )
        classifier = replace(classifier, module=module)
    elif learns:
        denoiser, outcome = train_denoiser(
            recipe,
            classifier.module,
            splits,
            folder,
            runs_dir / "adversaries",
            data_dir=data_dir,
            resume=resume,
            cut=cut,
            device=device,
            console=console,
        )
    else:
        denoiser, outcome = _untrained_denoiser(recipe, classifier, splits, device)
    if classifier.origin is not None:
        classifier.origin.check(classifier.module)
    manifest = export_bundle(
        bundle_dir, recipe, classifier, denoiser, outcome, splits, about=about or {}
    )
    console.print(f"[green]bundle[/] {bundle_dir}  {manifest.version}", soft_wrap=True)
    return manifest


def _untrained_denoiser(
    recipe: Recipe, classifier: Classifier, splits: Splits, device: torch.device
) -> tuple[nn.Module, Outcome]:
    section = recipe.denoiser
    denoiser = frozen(build(section.architecture, section.config).to(device))
    defence = Defence(denoiser, classifier.module)
    return denoiser, Outcome({"clean": accuracy(defence, splits.held_out)}, 0)


def _check_networks(recipe: Recipe, classes: int) -> None:
    """Find out now, not after an hour, that a network cannot be built or does not fit.

    Raises:
        Invalid, RecipeError.
    """
    spec = recipe.input
    images = torch.zeros(2, spec.channels, spec.height_px, spec.width_px)
    denoiser = frozen(build(recipe.denoiser.architecture, recipe.denoiser.config))
    if bool(parameter_count(denoiser)) != bool(recipe.denoiser.epochs):
        learns = "learns, so it needs 1 or more" if parameter_count(denoiser) else "learns nothing"
        raise RecipeError(f"denoiser.epochs: {recipe.denoiser.architecture} {learns}")
    with torch.no_grad():
        images = _try("denoiser", recipe.denoiser.architecture, denoiser, images, images.shape)
        if not recipe.classifier.taken:
            section = recipe.classifier
            classifier = frozen(build(section.architecture, section.config))
            _try("classifier", section.architecture, classifier, images, torch.Size((2, classes)))


def _try(
    role: str, architecture: str, network: nn.Module, images: torch.Tensor, expected: torch.Size
) -> torch.Tensor:
    try:
        answers: torch.Tensor = network(images)
    except RuntimeError as error:
        raise RecipeError(
            f"{role}: {architecture} does not take images of {tuple(images.shape[1:])} "
            f"(channels, height, width); set {role}.config ({error})"
        ) from error
    if answers.shape != expected:
        raise RecipeError(
            f"{role}: {architecture} answers {tuple(answers.shape[1:])} where "
            f"{tuple(expected[1:])} is needed; set {role}.config"
        )
    return answers


def _claim(folder: Path, recipe: Recipe, *, goes_on: bool) -> None:
    """Note whose run the folder holds; raises RecipeError where it goes on with another's."""
    note = folder / "recipe.json"
    if goes_on and note.is_file() and (difference := _difference(note, recipe)) is not None:
        raise RecipeError(
            f"{folder} holds the run of a different recipe{difference}; "
            "train without --resume, or under another name (--set name=...)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(recipe.model_dump_json())


def _claim_classifier(folder: Path, classifier: nn.Module, *, goes_on: bool) -> None:
    """As `_claim`, for the weights of a classifier that is taken: the recipe does not hold them."""
    note, digest = folder / "classifier.sha256", digest_of(classifier.state_dict())
    if goes_on and note.is_file() and note.read_text() != digest:
        raise RecipeError(
            f"{folder} holds the run for a classifier with other weights; train without --resume, "
            "or under another name (--set name=...)"
        )
    note.write_text(digest)


def _difference(note: Path, recipe: Recipe) -> str | None:
    """What sets the noted recipe apart, in words; None where both train the same.

    The summary may change: it is words. So may the text of the note, with a later Fend.
    """
    try:
        other = Recipe.model_validate_json(note.read_text())
    except ValidationError:
        return ""
    trained = [key for key in Recipe.model_fields if key != "summary"]
    keys = [key for key in trained if getattr(other, key) != getattr(recipe, key)]
    return f" ({', '.join(keys)} differ)" if keys else None
