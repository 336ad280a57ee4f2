"""Data sets by spec, such as "mnist:test"."""

from dataclasses import dataclass
from pathlib import Path

from fend.datasets import (
    cifar10,
    folder,
    gtsrb,
    handwritten_digits,
    imagenette,
    mnist,
    npz,
    parquet,
    rendered_digits,
)
from fend.datasets.base import ImageSet, MissingDatasetError
from fend.datasets.pictures import Pictures, Tell, decoded, quiet
from fend.errors import Invalid
from fend.images import InputSpec


@dataclass(frozen=True)
class SpecForm:
    """A form of spec that `load` accepts, for listings."""

    form: str
    description: str


SPEC_FORMS = (
    SpecForm("mnist:train, mnist:test", "handwritten digits, 1x28x28; 60,000 and 10,000"),
    SpecForm("cifar10:train, cifar10:test", "ten kinds of things, 3x32x32; 50,000 and 10,000"),
    SpecForm("cifar10-grey:train, cifar10-grey:test", "the same as the paper has it, 1x28x28"),
    SpecForm("gtsrb:train, gtsrb:test", "German traffic signs, 3x32x32; 39,209 and 12,630"),
    SpecForm("imagenette:train, imagenette:test", "ten classes of ImageNet; 9,469 and 3,925"),
    SpecForm("handwritten-digits", "200 handwritten digits that come with Fend, 1x28x28"),
    SpecForm("rendered-digits:train, rendered-digits:test", "typeset digits, 1x28x28; no files"),
    SpecForm("folder:PATH", "your images, one folder a class"),
    SpecForm("csv:PATH", "your images, as a CSV file with the columns path and label lists them"),
    SpecForm("parquet:PATH", "your images as the Hugging Face hub has them: a file or a folder"),
    SpecForm("npz:PATH", "your arrays `images` and `labels`"),
)
LOCAL = ("folder:", "csv:", "parquet:", "npz:")
"""How specs begin that open any path that this process may read: take them from whoever runs the
process, never from a request."""
CACHE = "decoded"
"""Folder of decoded pictures in the data directory."""


def load(
    spec: str,
    data_dir: Path | None,
    input_spec: InputSpec | None = None,
    *,
    skip_bad: bool = False,
    tell: Tell = quiet,
) -> ImageSet:
    """Read the data set that `spec` names, in one of `SPEC_FORMS`; see `LOCAL` before it comes from
    a request. The digits that come with Fend are their test split unless the spec says another.

    Args:
        data_dir: folder of the published data sets; the others need none. Pictures that are files
            are decoded once, with `input_spec`, and kept in its folder `decoded`.
        input_spec: what pictures that are files are brought to; others keep their size.
        skip_bad: pass over files that are no pictures.
        tell: told what takes time, and what is passed over.

    Raises:
        Invalid (`dataset_unknown`): no data set has this name, or it has no such split.
        MissingDatasetError: its files are missing.
        Invalid (`dataset_corrupt`): mnist or cifar10 is not as published.
        InvalidDatasetError: the caller's images cannot be used.
        Unavailable: as `fend.datasets.pictures.decoded`, or pyarrow is not installed.
    """
    name, _, argument = spec.partition(":")
    if (found := _pictures(name, argument, data_dir)) is not None:
        cache = None if data_dir is None else data_dir / CACHE
        return decoded(found, input_spec, cache=cache, skip_bad=skip_bad, tell=tell)
    if name == "npz" and argument:
        return npz.load(Path(argument))
    if name == "handwritten-digits" and (argument or "test") == "test":
        return handwritten_digits.load()
    if name == "rendered-digits" and (argument or "test") in rendered_digits.COUNTS:
        return rendered_digits.load(argument or "test")
    if name == "mnist" and argument in mnist.FILES:
        return mnist.load(argument, _require(data_dir, spec))
    if name == "cifar10" and argument in cifar10.FILES:
        return cifar10.load(argument, _require(data_dir, spec))
    if name == "gtsrb" and argument in gtsrb.SPLITS:
        return gtsrb.load(argument, _require(data_dir, spec))
    if name == "cifar10-grey" and argument in cifar10.FILES:
        return cifar10.load_grey(argument, _require(data_dir, spec))
    forms = "; ".join(entry.form for entry in SPEC_FORMS)
    raise Invalid(f"no data set is called {spec!r}; there are: {forms}", code="dataset_unknown")


def _pictures(name: str, argument: str, data_dir: Path | None) -> Pictures | None:
    """The pictures of a data set that is made of files; None where the spec names another."""
    if name == "imagenette" and argument in imagenette.SPLITS:
        return imagenette.pictures(argument, _require(data_dir, f"{name}:{argument}"))
    readers = {"folder": folder.class_folders, "csv": folder.listed, "parquet": parquet.rows_of}
    return readers[name](Path(argument)) if argument and name in readers else None


def fetched_with(spec: str) -> str:
    """The name under which `fend data fetch` gets the files of `spec`."""
    return spec.partition(":")[0].removesuffix("-grey")


def _require(data_dir: Path | None, spec: str) -> Path:
    if data_dir is None:
        fetched = fetched_with(spec)
        filled = "" if fetched == "gtsrb" else f"; fend data fetch {fetched} fills it"
        raise MissingDatasetError(
            f"{spec} is read from a data directory, and none is set: set FEND_DATA_DIR or pass "
            f"--data-dir{filled}"
        )
    return data_dir
