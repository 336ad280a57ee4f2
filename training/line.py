"""data -> classifier -> adversaries -> denoiser -> bundle."""

from pathlib import Path

import torch
from rich.console import Console

from fend.bundle import Manifest
from training.classifier import obtain_classifier
from training.data import load_splits
from training.denoiser import train_denoiser
from training.export import export_bundle
from training.recipe import Recipe


def run_recipe(
    recipe: Recipe,
    *,
    data_dir: Path | None,
    models_dir: Path,
    runs_dir: Path,
    resume: bool,
    cut: bool = False,
    device: torch.device,
    console: Console,
) -> Manifest:
    """Everything that `fend train` does; returns the manifest of the bundle that it wrote.

    The denoiser's checkpoints go to `runs_dir/<name>`. Classifiers and adversarial images are kept
    under `runs_dir` by the digest of what made them, shared by all recipes. `cut` trains no further
    and exports the denoiser's best checkpoint so far.
    """
    splits = load_splits(recipe.data, recipe.seed, data_dir)
    classifier = obtain_classifier(
        recipe, splits, runs_dir / "classifiers", device=device, console=console
    )
    denoiser, outcome = train_denoiser(
        recipe,
        classifier[2],
        splits,
        runs_dir / recipe.name,
        runs_dir / "adversaries",
        data_dir=data_dir,
        resume=resume,
        cut=cut,
        device=device,
        console=console,
    )
    manifest = export_bundle(models_dir, recipe, classifier, denoiser, outcome, splits)
    console.print(f"[green]bundle[/] {models_dir / recipe.name}  {manifest.version}")
    return manifest
