"""German traffic signs (GTSRB, Stallkamp et al. 2012) at 32x32: 43 kinds, as filmed from a car."""

from dataclasses import replace
from pathlib import Path

from fend.datasets import npz
from fend.datasets.base import ImageSet, MissingDatasetError

SPLITS = ("train", "test")


def load(split: str, data_dir: Path) -> ImageSet:
    """The images of `split`, 3x32x32. The training images have `groups`: about thirty frames of one
    filmed sign are near copies.

    Raises:
        MissingDatasetError: DATA_DIR/gtsrb32 does not hold the file.
    """
    return replace(npz.load(find_file(split, data_dir)), name=f"gtsrb:{split}")


def find_file(split: str, data_dir: Path) -> Path:
    """The .npz file of `split`; raises MissingDatasetError where there is none."""
    path = data_dir / "gtsrb32" / f"{split}.npz"
    if not path.is_file():
        raise MissingDatasetError(
            f"gtsrb:{split} is read from {path}, which is missing; save the 32x32 images there as "
            "docs/training.md says"
        )
    return path
