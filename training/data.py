"""The recipe's images: training, held-out and test."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fend.datasets import ImageSet, load
from fend.images import InputSpec
from training.recipe.schema import DataSection, RecipeError


@dataclass(frozen=True)
class Splits:
    """Disjoint images; the test set is used for the final table only."""

    train: ImageSet
    held_out: ImageSet
    test: ImageSet

    def relabelled(self, label_names: tuple[str, ...]) -> "Splits":
        """See `ImageSet.relabelled`."""
        every = (self.train, self.held_out, self.test)
        return Splits(*(part.relabelled(label_names) for part in every))


def load_splits(
    section: DataSection,
    input_spec: InputSpec,
    seed: int,
    data_dir: Path | None,
    tell: Callable[[str], None] = lambda _: None,
) -> Splits:
    """Load and split; the same seed gives the same split. `tell` is as in `fend.datasets.load`.

    Raises:
        Invalid: a data set is missing.
        RecipeError: fewer images than the recipe asks for, or of another shape.
    """

    def read(name: str) -> ImageSet:
        return load(name, data_dir, input_spec, skip_bad=section.skip_bad, tell=tell)

    images = read(section.train)
    wanted = section.held_out + (section.limit or 1)
    if wanted > len(images):
        raise RecipeError(f"data.held_out and data.limit need {wanted} images of {len(images)}")
    held_out = _held_out(images, section, seed)
    kept = torch.ones(len(images), dtype=torch.bool)
    kept[held_out] = False
    train = images.subset(kept.nonzero().squeeze(1))
    if section.limit is not None:
        train = train.subset(train.sample(section.limit, seed).sort().values)
    test = images if section.test == section.train else read(section.test)
    parts = (train, images.subset(held_out), test)
    return Splits(*(_as_input(part, input_spec, section.fit) for part in parts))


def _held_out(images: ImageSet, section: DataSection, seed: int) -> Tensor:
    """Indices of the held-out images; with whole groups there may be a few more than asked for."""
    if not section.split_groups:
        return images.sample(section.held_out, seed).sort().values
    if images.groups is None:
        raise RecipeError(f"{images.name} has no groups; leave data.split_groups out")
    numbers, sizes = images.groups.unique(return_counts=True)  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(sizes), generator=generator)
    count = int((sizes[chosen].cumsum(0) < section.held_out).sum()) + 1
    indices = torch.isin(images.groups, numbers[chosen[:count]]).nonzero().squeeze(1)
    # Shuffled: the first of them are attacked after each epoch, and files may be sorted by class.
    return indices[torch.randperm(len(indices), generator=generator)]


def _as_input(images: ImageSet, spec: InputSpec, fit: bool) -> ImageSet:
    """`images` in the shape of the recipe's input; raises RecipeError where they do not fit."""
    wanted = (spec.channels, spec.height_px, spec.width_px)
    shape = tuple(images.images.shape[1:])
    if shape == wanted:
        return images
    right, down = spec.width_px - shape[2], spec.height_px - shape[1]
    if not fit or shape[0] not in (1, spec.channels) or min(right, down) < 0:
        raise RecipeError(
            f"{images.name} has images of {_in_words(shape)}, and the recipe's input is "
            f"{_in_words(wanted)}; choose a data set or an input that matches"
        )
    sides = (right // 2, right - right // 2, down // 2, down - down // 2)
    padded = F.pad(images.images, sides).expand(-1, spec.channels, -1, -1).contiguous()
    return ImageSet(images.name, padded, images.labels, images.label_names)


def _in_words(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)
