"""What tests of the stages share."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from fend.bundles import Manifest
from training.data import load_splits
from training.line import run_recipe
from training.recipe import Recipe
from training.stages.stage import Context


@pytest.fixture(scope="session")
def context_of():
    """The context of a recipe that needs no data folder."""

    def make(recipe: Recipe, runs_dir: Path = Path("runs"), console: Console | None = None):
        return Context.of(
            recipe,
            load_splits(recipe.data, recipe.input, recipe.seed, None),
            data_dir=None,
            runs_dir=runs_dir,
            device=torch.device("cpu"),
            console=console or Console(quiet=True),
        )

    return make


@pytest.fixture(scope="session")
def run():
    """Runs a recipe, quietly and on the CPU, to FOLDER/models/NAME."""

    def make(recipe: Recipe, folder: Path, **options) -> Manifest:
        return run_recipe(
            recipe,
            data_dir=None,
            bundle_dir=folder / "models" / recipe.name,
            runs_dir=folder / "runs",
            device=torch.device("cpu"),
            console=Console(quiet=True),
            **{"resume": False, **options},
        )

    return make
