"""The recipe's images: training, held out, and test."""

from dataclasses import dataclass
from pathlib import Path

import torch

from fend.datasets import ImageSet, load
from training.recipe import DataSection, RecipeError


@dataclass(frozen=True)
class Splits:
    """Disjoint images. The test set is touched for the final table only."""

    train: ImageSet
    held_out: ImageSet
    test: ImageSet


def load_splits(section: DataSection, seed: int, data_dir: Path | None) -> Splits:
    """Load and split; the same seed splits the same way.

    Raises:
        DatasetError: a set that is not there. RecipeError: fewer images than the recipe asks for.
    """
    images = load(section.train, data_dir)
    wanted = section.held_out + (section.limit or 1)
    if wanted > len(images):
        raise RecipeError(f"data.held_out and data.limit need {wanted} images of {len(images)}")
    held_out = images.sample(section.held_out, seed).sort().values
    kept = torch.ones(len(images), dtype=torch.bool)
    kept[held_out] = False
    train = images.subset(kept.nonzero().squeeze(1))
    if section.limit is not None:
        train = train.subset(train.sample(section.limit, seed).sort().values)
    return Splits(train, images.subset(held_out), load(section.test, data_dir))
