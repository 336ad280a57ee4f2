"""Named labelled image sets: what is trained on and audited with."""

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
