"""Imagenette: ten classes of ImageNet (fast.ai), as photographs of any size."""

from dataclasses import replace
from pathlib import Path

from fend.datasets.base import InvalidDatasetError, MissingDatasetError
from fend.datasets.folder import class_folders
from fend.datasets.pictures import Pictures

FOLDERS = ("imagenette2-320", "imagenette224")
"""Where it may be: what is downloaded, and the same pictures cut to squares of 224 pixels."""
SPLITS = {"train": "train", "test": "val"}
LABELS = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""As ImageNet's classes are called."""


def pictures(split: str, data_dir: Path) -> Pictures:
    """The pictures of the split "train" (9,469) or "test" (3,925).

    Raises:
        MissingDatasetError: it is not in `data_dir`.
        InvalidDatasetError: its folder holds other classes.
    """
    found = class_folders(find_folder(data_dir) / SPLITS[split])
    if unknown := set(found.label_names) - LABELS.keys():
        raise InvalidDatasetError(f"{found.place} holds {min(unknown)}, no class of imagenette")
    names = tuple(LABELS[name] for name in found.label_names)
    return replace(found, name=f"imagenette:{split}", label_names=names)


def find_folder(data_dir: Path) -> Path:
    """Its folder in `data_dir`; raises MissingDatasetError."""
    for folder in (data_dir / name for name in FOLDERS):
        if all((folder / part).is_dir() for part in SPLITS.values()):
            return folder
    raise MissingDatasetError(
        f"imagenette needs {data_dir / FOLDERS[0]} with train and val; "
        f"get it with: fend data fetch imagenette --data-dir {data_dir.absolute()}"
    )
