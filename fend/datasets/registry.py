"""From a data set's spec, such as "mnist:test", to the images."""

from pathlib import Path

from fend.datasets import mnist
from fend.datasets.base import ImageSet, MissingDatasetError, UnknownDatasetError


def load(spec: str, data_dir: Path | None) -> ImageSet:
    """Read the data set that `spec` names.

    Raises:
        UnknownDatasetError: when no data set has this name, or it has no such split.
        MissingDatasetError, CorruptDatasetError: see the single sets.
    """
    name, _, argument = spec.partition(":")
    if name == "mnist" and argument in mnist.FILES:
        if data_dir is None:
            raise MissingDatasetError(f"{spec} needs a data directory: set FEND_DATA_DIR")
        return mnist.load(argument, data_dir)
    raise UnknownDatasetError(f"no data set is called {spec!r}")
