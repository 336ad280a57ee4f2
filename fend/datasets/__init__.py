"""Named labelled image sets: what is trained on and audited with."""

from fend.datasets.base import (
    CorruptDatasetError,
    DatasetError,
    DownloadError,
    ImageSet,
    InvalidDatasetError,
    MissingDatasetError,
    UnknownDatasetError,
)
from fend.datasets.registry import load

__all__ = [
    "CorruptDatasetError",
    "DatasetError",
    "DownloadError",
    "ImageSet",
    "InvalidDatasetError",
    "MissingDatasetError",
    "UnknownDatasetError",
    "load",
]
