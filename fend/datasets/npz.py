"""The caller's own images from one .npz file with arrays `images` and `labels`.

The file may come from a stranger. Every array's declared size is checked against a limit and
against its own header before any of it is read, and pickled objects are refused.
"""

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from fend.datasets.base import ImageSet, InvalidDatasetError, MissingDatasetError

MAX_ARRAY_BYTES = 2**30
MAX_LABEL = 9_999

_MAX_HEADER_BYTES = 1_000  # numpy writes some 120
# What zipfile, zlib and numpy's header parser raise; RuntimeError: encrypted, or nested too deeply.
_DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    EOFError,
    ValueError,
    RuntimeError,
    OSError,
)


def load(path: Path, max_array_bytes: int = MAX_ARRAY_BYTES) -> ImageSet:
    """Read labelled images.

    `images` is uint8, or float in [0, 1], which is rounded to 8 bits; its shape is (N, H, W),
    (N, H, W, C) or (N, C, H, W) with 1 or 3 channels. `labels` holds N whole numbers from 0 on, as
    (N,) or (N, 1), or is one-hot (N, classes): one 1 a row, else 0.
    `label_names` holds one text a label; without it the numbers are the names. `groups` holds
    N whole numbers, equal for images of the same object.

    Raises:
        MissingDatasetError: when there is no such file.
        InvalidDatasetError: when the file is damaged, too large, or not as above.
    """
    if not path.is_file():
        raise MissingDatasetError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            images = _read_array(archive, "images", max_array_bytes)
            labels = _read_array(archive, "labels", max_array_bytes)
            names, groups = (
                _read_array(archive, name, max_array_bytes)
                if f"{name}.npy" in archive.namelist()
                else None
                for name in ("label_names", "groups")
            )
    except InvalidDatasetError as error:
        raise InvalidDatasetError(f"{path}: {error}") from error
    except _DAMAGE_ERRORS as error:
        raise InvalidDatasetError(f"{path} is not a readable .npz file: {error}") from error
    return to_image_set(f"npz:{path.name}", images, labels, names, groups)


def to_image_set(
    name: str,
    images: NDArray[Any],
    labels: NDArray[Any],
    label_names: NDArray[Any] | None = None,
    groups: NDArray[Any] | None = None,
) -> ImageSet:
    """Check the arrays, as `load` describes them; raises InvalidDatasetError."""
    classes = labels.shape[1] if labels.ndim == 2 and labels.shape[1] > 1 else None
    if classes is not None:
        labels = _from_one_hot(name, labels)
    elif labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InvalidDatasetError(
            f"{name}: labels must be whole numbers of shape (N,) or (N, 1), or one-hot "
            f"(N, classes), not {labels.dtype} {labels.shape}"
        )
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= MAX_LABEL:
        raise InvalidDatasetError(
            f"{name}: labels must lie in 0..{MAX_LABEL}, "
            f"but go from {labels.min()} to {labels.max()}"
        )
    return ImageSet(
        name=name,
        images=torch.from_numpy(_to_uint8(name, _to_nchw(name, images))),
        labels=torch.from_numpy(labels.astype(np.int64)),
        label_names=_to_label_names(name, labels, classes, label_names),
        groups=None if groups is None else _to_groups(name, groups),
    )


def _to_groups(name: str, groups: NDArray[Any]) -> torch.Tensor:
    if groups.dtype.kind not in "iu":
        raise InvalidDatasetError(f"{name}: groups must be whole numbers, not {groups.dtype}")
    return torch.from_numpy(groups.astype(np.int64))


def _from_one_hot(name: str, labels: NDArray[Any]) -> NDArray[np.int64]:
    """(N, classes) of any numbers or truths to (N,)."""
    ones = labels == 1
    if labels.dtype.kind not in "biuf" or not (
        (ones | (labels == 0)).all() and (ones.sum(axis=1) == 1).all()
    ):
        raise InvalidDatasetError(
            f"{name}: labels of shape {labels.shape} are read as one-hot, and a row of them has "
            "not exactly one 1 and else 0; save whole numbers of shape (N,)"
        )
    indices: NDArray[np.int64] = ones.argmax(axis=1)
    return indices


def _read_array(archive: zipfile.ZipFile, name: str, max_bytes: int) -> NDArray[Any]:
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise InvalidDatasetError(
            f"holds no array called {name!r}; save it with np.savez(path, images=..., labels=...)"
        ) from None
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidDatasetError(f"the array {name!r} is not compressed as np.savez does it")
    # zipfile reads no more than the declared size, whatever the compressed data unpacks to.
    if info.file_size > max_bytes:
        raise InvalidDatasetError(
            f"the array {name!r} has {info.file_size} bytes, the limit is {max_bytes}"
        )
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = npy.read_array_header_1_0(file, _MAX_HEADER_BYTES)
        elif version == (2, 0):
            shape, _, dtype = npy.read_array_header_2_0(file, _MAX_HEADER_BYTES)
        else:
            raise InvalidDatasetError(f"the array {name!r} has an unknown npy version {version}")
        expected_bytes = file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.hasobject:
        raise InvalidDatasetError(f"the array {name!r} holds Python objects, which are not read")
    # numpy would set the memory for this shape aside before it notices that the data are missing.
    if info.file_size != expected_bytes:
        raise InvalidDatasetError(
            f"the array {name!r} has {info.file_size} bytes where its header promises "
            f"{expected_bytes}"
        )
    with archive.open(info) as file:
        array: NDArray[Any] = npy.read_array(
            file, allow_pickle=False, max_header_size=_MAX_HEADER_BYTES
        )
    return array


def _to_nchw(name: str, images: NDArray[Any]) -> NDArray[Any]:
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise InvalidDatasetError(
            f"{name}: images must be (N, H, W), (N, H, W, C) or (N, C, H, W), not {images.shape}"
        )
    is_nchw, is_nhwc = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
    if is_nchw == is_nhwc:
        problem = "could be read in two ways" if is_nchw else "has no axis of 1 or 3 channels"
        raise InvalidDatasetError(f"{name}: the images' shape {images.shape} {problem}")
    return images if is_nchw else images.transpose(0, 3, 1, 2)


def _to_uint8(name: str, images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.dtype == np.uint8:
        return np.array(images, dtype=np.uint8, order="C")
    if images.dtype.kind != "f":
        raise InvalidDatasetError(
            f"{name}: images must be uint8, or float in [0, 1], not {images.dtype}"
        )
    if not np.isfinite(images).all():
        raise InvalidDatasetError(f"{name}: images hold NaN or infinite pixels")
    if images.size and (images.min() < 0 or images.max() > 1):
        raise InvalidDatasetError(
            f"{name}: float pixels must lie in [0, 1], but go from {images.min()} to "
            f"{images.max()}; save 0..255 as uint8"
        )
    rounded: NDArray[np.uint8] = np.ascontiguousarray(np.rint(images * 255.0).astype(np.uint8))
    return rounded


def _to_label_names(
    name: str, labels: NDArray[Any], classes: int | None, label_names: NDArray[Any] | None
) -> tuple[str, ...]:
    if label_names is None:
        count = classes or (int(labels.max()) + 1 if labels.size else 0)
        return tuple(str(label) for label in range(count))
    if label_names.ndim != 1 or label_names.dtype.kind != "U":
        raise InvalidDatasetError(
            f"{name}: label_names must be texts of shape (classes,), "
            f"not {label_names.dtype} {label_names.shape}"
        )
    if classes is not None and len(label_names) != classes:
        raise InvalidDatasetError(
            f"{name}: the one-hot labels have {classes} columns, label_names has {len(label_names)}"
        )
    return tuple(str(label_name) for label_name in label_names)
