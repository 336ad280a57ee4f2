"""The caller's own images from a folder that has one folder a class, each full of image files."""

from pathlib import Path

import torch
from torch import Tensor

from fend.datasets.archives import is_left_behind
from fend.datasets.base import ImageSet, InvalidDatasetError, MissingDatasetError
from fend.errors import FendError
from fend.images import DEFAULT_LIMITS, DecodedImage, DecodeLimits, InputSpec, decode

MAX_TOTAL_BYTES = 2**31


def load(
    path: Path,
    input_spec: InputSpec | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
    max_total_bytes: int = MAX_TOTAL_BYTES,
) -> ImageSet:
    """Decode every file of every class folder, as an uploaded image is decoded.

    Classes are in the order of their names, numbers by value; images within a class likewise. What
    file managers leave, hidden files and files beside the class folders are passed over.

    Args:
        input_spec: what images are brought to. Without it they keep their size, which must be one
            for all, and have one channel if all of them are grey, else three.
        limits: for each file.
        max_total_bytes: of the decoded set; more is refused before decoding.

    Raises:
        MissingDatasetError: when there is no such folder.
        InvalidDatasetError: when there are no class folders or images, a file is not an image,
            sizes differ, or the set is too large; names the file.
    """
    if not path.is_dir():
        raise MissingDatasetError(f"there is no folder {path}")
    class_folders = [entry for entry in _visible(path) if entry.is_dir()]
    files = [(file, label) for label, entry in enumerate(class_folders) for file in _visible(entry)]
    if not files:
        raise InvalidDatasetError(
            f"{path} holds no images in class folders; lay it out as {path}/LABEL/IMAGE.png"
        )
    spec = input_spec or _own_size(files[0][0], limits)
    shape = (len(files), spec.channels, spec.height_px, spec.width_px)
    total_bytes = torch.Size(shape).numel()
    if total_bytes > max_total_bytes:
        raise InvalidDatasetError(
            f"{path}: {len(files)} images take {total_bytes} bytes decoded, "
            f"the limit is {max_total_bytes}; use fewer or smaller ones"
        )
    images = torch.empty(shape, dtype=torch.uint8)
    for index, (file, _) in enumerate(files):
        image = _decode(file, spec, limits)
        if input_spec is None and image.resized:
            raise InvalidDatasetError(
                f"{file} is {image.source_size_px} pixels (height, width), {files[0][0]} is "
                f"{(spec.height_px, spec.width_px)}; make all of one size"
            )
        images[index] = (image.pixels * 255).round()
    return ImageSet(
        name=f"folder:{path.name}",
        images=images if input_spec else _drop_equal_channels(images),
        labels=torch.tensor([label for _, label in files]),
        label_names=tuple(entry.name for entry in class_folders),
    )


def _visible(folder: Path) -> list[Path]:
    entries = [entry for entry in folder.iterdir() if not is_left_behind(entry.name)]
    if all(entry.stem.isdecimal() for entry in entries):
        return sorted(entries, key=lambda entry: (int(entry.stem), entry.name))
    return sorted(entries, key=lambda entry: entry.name)


def _own_size(file: Path, limits: DecodeLimits) -> InputSpec:
    probe = _decode(file, InputSpec(channels=3, height_px=1, width_px=1), limits)
    height_px, width_px = probe.source_size_px
    return InputSpec(channels=3, height_px=height_px, width_px=width_px)


def _decode(file: Path, spec: InputSpec, limits: DecodeLimits) -> DecodedImage:
    try:
        with file.open("rb") as opened:
            data = opened.read(limits.max_bytes + 1)
        return decode(data, spec, limits)
    except (OSError, FendError) as error:
        raise InvalidDatasetError(f"{file} cannot be used: {error}") from error


def _drop_equal_channels(images: Tensor) -> Tensor:
    is_grey = bool((images == images[:, :1]).all())
    return images[:, :1].clone() if is_grey else images
