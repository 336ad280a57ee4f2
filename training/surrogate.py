"""The attacker's own model: another classifier and denoiser by the same recipe, made smaller."""

import tempfile
from pathlib import Path

import torch
from rich.console import Console

from fend.bundles import read_manifest
from training.line import run_recipe
from training.recipe.smaller import surrogate_recipe


def train_surrogate(bundle_dir: Path, out_dir: Path, *, data_dir: Path | None, seed: int) -> None:
    """Train a surrogate of the bundle at `bundle_dir`; `out_dir` appears whole or not at all.

    Data and loss network are read from `data_dir`; progress goes to stderr.

    Raises:
        Invalid: the bundle holds no recipe that can be used (`surrogate_impossible`).
        FendError: its data set or loss network is missing.
    """
    manifest = read_manifest(bundle_dir)
    recipe = surrogate_recipe(manifest, seed)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f".{out_dir.name}-") as runs:
        run_recipe(
            recipe,
            data_dir=data_dir,
            bundle_dir=out_dir,
            runs_dir=Path(runs),
            resume=False,
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            console=Console(stderr=True),
            about={"surrogate_of": manifest.version},
            labels=tuple(manifest.content.labels),
        )
