"""`fend train RECIPE`: the whole training pipeline in one command."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fend.cli.folders import DATA_DIR, DataDir
from fend.files import check_folder


def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe by name, or a TOML file.")],
    profile: Annotated[
        str, typer.Option(help="A budget of the recipe: full, or a name under its [profiles].")
    ] = "full",
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a key, such as data.limit=1000. Repeatable."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed in place of the recipe's; it is added to the name."),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Classifier to protect: a Python function that returns a torch.nn.Module.",
        ),
    ] = None,
    classifier_weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Weights of that classifier, as safetensors; default: the function's own.",
        ),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Train in miniature, on typeset digits; needs no data.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint of this recipe.")
    ] = False,
    cut: Annotated[
        bool,
        typer.Option(
            "--cut", help="Export the best checkpoint so far instead of training further."
        ),
    ] = False,
    data_dir: DataDir = DATA_DIR,
    models_dir: Annotated[Path, typer.Option(help="Folder that the bundle is written to.")] = Path(
        "models"
    ),
    runs_dir: Annotated[
        Path, typer.Option(help="Folder of checkpoints and TensorBoard files.")
    ] = Path("runs"),
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1, ...")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")] = 0,
) -> None:
    """Train a classifier and a denoiser by RECIPE and export them as a bundle."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch
    from rich.console import Console

    from training.line import run_recipe
    from training.recipe.files import foreign_changes, load_recipe
    from training.recipe.smaller import smoke as smoke_recipe

    if threads:
        torch.set_num_threads(threads)
    foreign = foreign_changes(recipe, classifier, classifier_weights)
    chosen = load_recipe(recipe, profile=profile, changes=[*foreign, *(changes or [])], seed=seed)
    if smoke:
        chosen = smoke_recipe(chosen)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_folder("--models-dir", models_dir)
    check_folder("--runs-dir", runs_dir)
    run_recipe(
        chosen,
        data_dir=data_dir,
        bundle_dir=models_dir / chosen.name,
        runs_dir=runs_dir,
        resume=resume,
        cut=cut,
        device=torch.device(device),
        console=Console(),
    )
