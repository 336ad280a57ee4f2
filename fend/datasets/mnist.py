"""MNIST from its four idx files, plain or gzipped, in the layout that torchvision uses.

The format: http://yann.lecun.com/exdb/mnist/ (big-endian; two zero bytes, type 8 = uint8, number of
dimensions, one uint32 a dimension, then the data).
"""

import gzip
import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fend.datasets.base import ImageSet, MissingDatasetError
from fend.errors import Invalid

FOLDER = "MNIST/raw"
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
LABEL_NAMES = tuple("0123456789")

# Digests of the unpacked files.
MD5S: Mapping[str, str] = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

_MAX_FILE_BYTES = 64 * 2**20  # the largest of the four is 47 MB


def load(split: str, data_dir: Path, md5s: Mapping[str, str] = MD5S) -> ImageSet:
    """Read the split "train" (60,000) or "test" (10,000): uint8 (N, 1, 28, 28), light on dark.

    Raises:
        MissingDatasetError: when a file is not in `data_dir`/MNIST/raw.
        Invalid (`dataset_corrupt`): when a file is not the published one, or not whole.
    """
    images_path, labels_path = find_files(split, data_dir)
    images = _read_idx(images_path, dimensions=3, md5s=md5s)
    labels = _read_idx(labels_path, dimensions=1, md5s=md5s)
    if len(images) != len(labels):
        raise Invalid(
            f"{images_path} has {len(images)} images but {labels_path} has {len(labels)} labels; "
            "delete both, then fetch them again",
            code="dataset_corrupt",
        )
    return ImageSet(
        name=f"mnist:{split}",
        images=torch.from_numpy(images[:, None].copy()),
        labels=torch.from_numpy(labels.astype(np.int64)),
        label_names=LABEL_NAMES,
    )


def find_files(split: str, data_dir: Path) -> tuple[Path, Path]:
    """The paths of a split's images and labels; raises MissingDatasetError."""
    folder = data_dir / FOLDER
    found, missing = [], []
    for name in FILES[split]:
        candidates = (folder / name, folder / f"{name}.gz")
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            missing.append(name)
        else:
            found.append(path)
    if missing:
        raise MissingDatasetError(
            f"mnist:{split} needs {' and '.join(missing)} (plain or .gz) in {folder}; "
            f"get them with: fend data fetch mnist --data-dir {data_dir.absolute()}"
        )
    return found[0], found[1]


def _read_idx(path: Path, dimensions: int, md5s: Mapping[str, str]) -> NDArray[np.uint8]:
    data = _read_bytes(path)
    header_bytes = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) < header_bytes:
        raise Invalid(
            f"{path} is not an idx file of uint8 in {dimensions} dimensions; "
            "delete it, then fetch it again",
            code="dataset_corrupt",
        )
    shape = tuple(int(size) for size in np.frombuffer(data[4:header_bytes], dtype=">u4"))
    expected_bytes = header_bytes + int(np.prod(shape, dtype=object))
    if len(data) != expected_bytes:
        raise Invalid(
            f"{path} holds {len(data)} bytes where its header promises {expected_bytes}; "
            "delete it, then fetch it again",
            code="dataset_corrupt",
        )
    expected_md5 = md5s[path.name.removesuffix(".gz")]
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if md5 != expected_md5:
        raise Invalid(
            f"{path} is not the published file (md5 {md5}, expected {expected_md5}); "
            "delete it, then fetch it again",
            code="dataset_corrupt",
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header_bytes).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Invalid(
            f"{path} cannot be unpacked ({error}); delete it, then fetch it again",
            code="dataset_corrupt",
        ) from error
    if len(data) > _MAX_FILE_BYTES:
        raise Invalid(
            f"{path} unpacks to more than {_MAX_FILE_BYTES} bytes", code="dataset_corrupt"
        )
    return data
