"""`fend train RECIPE`: the whole offline line in one command."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fend.cli.folders import DATA_DIR, DataDir


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
        typer.Option(min=0, help="Another seed than the recipe's; it goes into the name."),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Protect this classifier as it is: a Python function that makes a torch.nn.Module",
        ),
    ] = None,
    classifier_weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Its weights, as safetensors; default: as it is made."),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="In miniature, on rendered digits; needs no data.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of this recipe.")
    ] = False,
    cut: Annotated[
        bool, typer.Option("--cut", help="Train no further: export the best checkpoint so far.")
    ] = False,
    data_dir: DataDir = DATA_DIR,
    models_dir: Annotated[Path, typer.Option(help="Where the bundle is written.")] = Path("models"),
    runs_dir: Annotated[Path, typer.Option(help="Checkpoints and TensorBoard.")] = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")] = 0,
) -> None:
    """Train a classifier and a denoiser by RECIPE and export them as a bundle."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch
    from rich.console import Console

    from training.line import run_recipe
    from training.recipe.files import foreign_changes, load_recipe
    from training.recipe.smaller import smoke as in_miniature

    if threads:
        torch.set_num_threads(threads)
    taken = foreign_changes(recipe, classifier, classifier_weights)
    chosen = load_recipe(recipe, profile=profile, changes=[*taken, *(changes or [])], seed=seed)
    if smoke:
        chosen = in_miniature(chosen)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
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
