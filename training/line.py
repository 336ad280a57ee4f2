"""data -> classifier -> denoiser -> bundle."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pydantic import ValidationError
from rich.console import Console
from torch import nn

from fend.bundles import Manifest
from fend.files import replace_atomically
from fend.models import build, parameter_count
from fend.pipeline import frozen
from training.classifiers.foreign import digest_of
from training.data import load_splits
from training.export import export_bundle
from training.recipe import Recipe, RecipeError
from training.stages.classifier import obtain_classifier
from training.stages.denoiser import leave_untrained, train_on_adversaries, train_on_noise
from training.stages.ibp import train_by_bounds
from training.stages.online import train_jointly, train_online
from training.stages.stage import Context, Stage

STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        "adversaries": train_on_adversaries,
        "online": train_online,
        "noise": train_on_noise,
        "joint": train_jointly,
        "ibp": train_by_bounds,
        "denoiser": leave_untrained,
    }
)
"""Stages by the section of the recipe that each is given."""


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
    labels: tuple[str, ...] | None = None,
) -> Manifest:
    """Everything that `fend train` does; returns the manifest of the bundle at `bundle_dir`.

    The denoiser's checkpoints go to `runs_dir/<name>`. Classifiers and adversarial images are kept
    under `runs_dir` by the digest of their inputs and shared by all recipes; they always resume.
    `cut` trains no further and exports the best checkpoint so far. `about` is added to the
    manifest's section of that name. `labels` are the classes where the images have but some.

    Raises:
        RecipeError: the recipe is inconsistent, or `resume` or `cut` would continue the run of
            another recipe.
        FendError: data, a loss network or a bundle is missing.
    """

    def tell(message: str) -> None:
        console.print(message, highlight=False, soft_wrap=True)

    splits = load_splits(recipe.data, recipe.input, recipe.seed, data_dir, tell)
    if labels is not None:
        splits = splits.relabelled(labels)
    _check_networks(recipe, len(splits.train.label_names))
    context = Context.of(
        recipe,
        splits,
        data_dir=data_dir,
        runs_dir=runs_dir,
        resume=resume,
        cut=cut,
        device=device,
        console=console,
    )
    learns, continues = recipe.denoiser.epochs > 0, resume or cut
    if learns:
        _record_recipe(context.run_dir, recipe, continues=continues)
    classifier = obtain_classifier(recipe.classifier, replace(context, cut=cut and not learns))
    if classifier.labels is not None:
        splits = splits.relabelled(classifier.labels)
        context = replace(context, splits=splits)
    if learns and recipe.classifier.taken:
        _record_classifier(context.run_dir, classifier.module, continues=continues)
    stage, section = STAGES[recipe.learns_from], getattr(recipe, recipe.learns_from)
    outcome = stage(section, classifier.module, context)
    if classifier.origin is not None and not recipe.classifier.learns:
        classifier.origin.check(outcome.classifier)
    manifest = export_bundle(bundle_dir, recipe, classifier, outcome, splits, about=about or {})
    console.print(f"[green]bundle[/] {bundle_dir}  {manifest.version}", soft_wrap=True)
    return manifest


def _check_networks(recipe: Recipe, classes: int) -> None:
    """Refuse a network that cannot be built or does not fit before anything is trained.

    Raises:
        Invalid: the registry does not have the network or cannot build it.
        RecipeError: the network does not fit the images, the classes or its epochs.
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


def _record_recipe(folder: Path, recipe: Recipe, *, continues: bool) -> None:
    """Record a run's recipe; raises RecipeError where the run to continue is of another."""
    note = folder / "recipe.json"
    if continues and note.is_file() and (difference := _difference(note, recipe)) is not None:
        raise RecipeError(
            f"{folder} holds the run of a different recipe{difference}; "
            "train without --resume, or under another name (--set name=...)"
        )
    replace_atomically(note, recipe.model_dump_json())


def _record_classifier(folder: Path, classifier: nn.Module, *, continues: bool) -> None:
    """As `_record_recipe`, for the weights of a classifier that the recipe only names."""
    note, digest = folder / "classifier.sha256", digest_of(classifier.state_dict())
    if continues and note.is_file() and note.read_text() != digest:
        raise RecipeError(
            f"{folder} holds the run for a classifier with other weights; train without --resume, "
            "or under another name (--set name=...)"
        )
    replace_atomically(note, digest)


def _difference(note: Path, recipe: Recipe) -> str | None:
    """The sections in which the recorded recipe differs, in words; None where it trains the same.

    The summary may differ, and so may the file's text, which a later Fend may write otherwise.
    """
    try:
        other = Recipe.model_validate_json(note.read_text())
    except ValidationError:
        return ""
    trained = [key for key in Recipe.model_fields if key != "summary"]
    keys = [key for key in trained if getattr(other, key) != getattr(recipe, key)]
    return f" ({', '.join(keys)} differ)" if keys else None
