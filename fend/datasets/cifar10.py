"""CIFAR-10 from its six "python" batches, in the layout that torchvision uses.

The batches are pickles, and a pickle can run any code. So each file's digest is compared with the
published one before any of it is interpreted, and the unpickler resolves only three names, to the
passive classes below: no code of numpy or Python can be reached.

The format: https://www.cs.toronto.edu/~kriz/cifar.html (rows of 3,072 bytes: red, green, blue).
"""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fend.datasets.base import ImageSet, MissingDatasetError
from fend.errors import Invalid
from fend.images import InputSpec
from fend.images.pixels import scale, to_samples

FOLDER = "cifar-10-batches-py"
FILES = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
LABEL_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

MD5S: Mapping[str, str] = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}

_ROW_BYTES = 3 * 32 * 32
_GREY = InputSpec(channels=1, height_px=28, width_px=28)


def load(split: str, data_dir: Path, md5s: Mapping[str, str] = MD5S) -> ImageSet:
    """Read the split "train" (50,000) or "test" (10,000): uint8 (N, 3, 32, 32), RGB.

    Raises:
        MissingDatasetError: when a file is not in `data_dir`/cifar-10-batches-py.
        Invalid (`dataset_corrupt`): when a file is not the published one.
    """
    batches = [_read_batch(path, md5s) for path in find_files(split, data_dir)]
    images = np.concatenate([rows for rows, _ in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in batches])
    return ImageSet(
        name=f"cifar10:{split}",
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        label_names=LABEL_NAMES,
    )


def load_grey(split: str, data_dir: Path, md5s: Mapping[str, str] = MD5S) -> ImageSet:
    """CIFAR-10 as the paper has it (section 4.1), uint8 (N, 1, 28, 28).

    Each picture is converted as the service converts a colour upload: resized with an antialiased
    bilinear filter, then ITU-R BT.601 luma. The paper names no filter and no formula.

    Raises:
        MissingDatasetError, Invalid: as `load`.
    """
    colour = load(split, data_dir, md5s)
    grey = np.empty((len(colour), 1, _GREY.height_px, _GREY.width_px), dtype=np.uint8)
    for index, picture in enumerate(colour.images.numpy().transpose(0, 2, 3, 1)):
        samples, _, _ = to_samples(scale(Image.fromarray(picture), _GREY), _GREY.channels)
        grey[index, 0] = samples[..., 0]
    return ImageSet(
        name=f"cifar10-grey:{split}",
        images=torch.from_numpy(grey),
        labels=colour.labels,
        label_names=colour.label_names,
    )


def find_files(split: str, data_dir: Path) -> tuple[Path, ...]:
    """The paths of a split's batches; raises MissingDatasetError."""
    folder = data_dir / FOLDER
    missing = [name for name in FILES[split] if not (folder / name).is_file()]
    if missing:
        raise MissingDatasetError(
            f"cifar10:{split} needs {', '.join(missing)} in {folder}; "
            f"get them with: fend data fetch cifar10 --data-dir {data_dir.absolute()}"
        )
    return tuple(folder / name for name in FILES[split])


def _read_batch(path: Path, md5s: Mapping[str, str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    data = path.read_bytes()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if md5 != md5s[path.name]:
        raise Invalid(
            f"{path} is not the published file (md5 {md5}, expected {md5s[path.name]}); "
            "delete it, then fetch it again",
            code="dataset_corrupt",
        )
    try:
        batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
        rows, labels = batch[b"data"].array, np.array(batch[b"labels"], dtype=np.int64)
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError) as e:
        raise Invalid(f"{path} is not a batch of CIFAR-10 ({e})", code="dataset_corrupt") from e
    if labels.ndim != 1 or rows.shape != (len(labels), _ROW_BYTES):
        raise Invalid(
            f"{path} has images of shape {rows.shape} for labels of shape {labels.shape}",
            code="dataset_corrupt",
        )
    return rows, labels


class _PickledType:
    """Stands for `numpy.ndarray`, and for a `numpy.dtype`, which has to be that of uint8."""

    def __init__(self, code: bytes = b"u1", *_: object) -> None:
        if code != b"u1":
            raise pickle.UnpicklingError(f"only uint8 arrays are read, not {code!r}")

    def __setstate__(self, state: object) -> None:
        """Byte order, fields and alignment: nothing that a uint8 has."""


class _PickledArray:
    """Stands for the result of numpy's `_reconstruct`; its state brings shape and bytes."""

    array: NDArray[np.uint8]

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[int, tuple[int, ...], _PickledType, bool, bytes]) -> None:
        _, shape, _, is_fortran, raw = state
        if is_fortran:
            raise pickle.UnpicklingError("only arrays in C order are read")
        self.array = np.frombuffer(raw, dtype=np.uint8).reshape(shape)


class _BatchUnpickler(pickle.Unpickler):
    _CLASSES: Mapping[tuple[str, str], type] = {
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy", "ndarray"): _PickledType,
        ("numpy", "dtype"): _PickledType,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._CLASSES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed here") from None
