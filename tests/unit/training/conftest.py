"""What tests of the stages share."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from training.data import load_splits
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
