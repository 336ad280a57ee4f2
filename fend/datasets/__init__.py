"""Named sets of labelled images, for training and audits."""

from fend.datasets.base import (
    ImageSet,
    InvalidDatasetError,
    MissingDatasetError,
)
from fend.datasets.registry import load

__all__ = [
    "ImageSet",
    "InvalidDatasetError",
    "MissingDatasetError",
    "load",
]
