"""Labelled pictures, each a file or the bytes of one, decoded once for a model's input.

What they are decoded to is kept in a cache folder, by a digest of everything that decides it, and
mapped into memory: another process, or another command, decodes nothing, and a set may be larger
than the memory.

    CACHE/<digest>.u8      uint8 (N, C, H, W)
    CACHE/<digest>.json    the labels, and which pictures were passed over
"""

import hashlib
import json
import mmap
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from fend.datasets.base import ImageSet, InvalidDatasetError
from fend.errors import FendError, Unavailable
from fend.files import replace_atomically, replacing
from fend.images import DEFAULT_LIMITS, DecodedImage, DecodeLimits, InputSpec, decode

MAX_TOTAL_BYTES = 2**31
"""Of a decoded set that is held in memory."""
NAMED = 5
"""So many of the pictures that cannot be used are named."""
_DECODER = 1
"""To be raised when the same file is decoded to other pixels."""

Tell = Callable[[str], None]


def quiet(_message: str) -> None:
    """Told, and says nothing."""


class Picture(NamedTuple):
    """One picture."""

    name: str
    """In messages."""
    label: int
    read: Callable[[int], bytes]
    """The first bytes of its file, so many at most; may raise OSError."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of a data set, before any is decoded."""

    name: str
    place: str
    """The folder or file that they come from, in messages."""
    count: int
    each: Callable[[], Iterator[Picture]]
    label_names: tuple[str, ...]
    decided_by: object
    """As JSON: the names, sizes and times of change of the files, for instance."""


def of_files(
    name: str, place: Path, files: list[tuple[Path, int]], label_names: tuple[str, ...]
) -> Pictures:
    """The pictures that are `files` with their labels."""

    def each() -> Iterator[Picture]:
        for path, label in files:
            yield Picture(str(path), label, partial(read, path))

    decided_by = [(str(path), label, *changed(path)) for path, label in files]
    return Pictures(name, str(place), len(files), each, label_names, decided_by)


def read(path: Path, most: int) -> bytes:
    """The first bytes of a file, so many at most."""
    with path.open("rb") as file:
        return file.read(most)


def changed(path: Path) -> tuple[int, int]:
    """Size and time of change of a file; zeros where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def decoded(
    pictures: Pictures,
    spec: InputSpec | None,
    *,
    limits: DecodeLimits = DEFAULT_LIMITS,
    max_total_bytes: int = MAX_TOTAL_BYTES,
    cache: Path | None = None,
    skip_bad: bool = False,
    tell: Tell = quiet,
) -> ImageSet:
    """Decode every picture, as an uploaded one is decoded.

    Args:
        spec: what they are brought to. Without it they keep their size, which must be one for all,
            and have one channel if all of them are grey, else three.
        limits: for each picture.
        max_total_bytes: of a set that is held in memory, for want of `cache` or of `spec`.
        cache: folder of decoded sets. Where it cannot be written, and the set is not too large for
            it, the set is held in memory.
        skip_bad: pass over pictures that cannot be used.
        tell: told what takes time, and what is passed over.

    Raises:
        InvalidDatasetError: a picture cannot be used, sizes differ, or the set is too large.
        Unavailable (`cache_unwritable`): the cache has no room for a set that memory does not hold.
    """
    work = _Work(pictures, spec or _own_size(pictures, limits), spec is None, limits, skip_bad)
    if cache is None or spec is None:
        work.check_size(max_total_bytes)
        return _in_memory(work, tell)
    path = cache / f"{work.digest()}.u8"
    if (kept := _kept(work, path)) is not None:
        return work.image_set(kept, path, tell)
    tell(f"decoding {pictures.count:,} pictures of {pictures.place}, once")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(cache).free) < work.total_bytes:
            raise OSError(f"it has {free} bytes left, {work.total_bytes} are needed")
        with replacing(path) as unfinished:
            with unfinished.open("wb") as file:
                found = work.decode(file)
            replace_atomically(path.with_suffix(".json"), json.dumps(found._asdict()))
    except OSError as error:
        if work.total_bytes <= max_total_bytes:
            return _in_memory(work, tell)
        raise Unavailable(
            f"{cache} cannot take the {pictures.count:,} decoded pictures of {pictures.place}: "
            f"{error.strerror or error}; make room, or name a data directory that has some",
            code="cache_unwritable",
        ) from error
    return work.image_set(found, path, tell)


class _Found(NamedTuple):
    """What was decoded, in the order of the pixels, and what was not."""

    labels: list[int]
    bad: list[str]


@dataclass(frozen=True)
class _Work:
    pictures: Pictures
    spec: InputSpec
    one_size: bool
    """Whether a picture of another size than `spec` is refused."""
    limits: DecodeLimits
    skip_bad: bool

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.spec.channels, self.spec.height_px, self.spec.width_px

    @property
    def total_bytes(self) -> int:
        return self.pictures.count * torch.Size(self.image_shape).numel()

    def digest(self) -> str:
        decides = (
            _DECODER, self.pictures.label_names, self.pictures.decided_by,
            self.spec.model_dump(mode="json"), vars(self.limits), self.skip_bad,
        )  # fmt: skip
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:32]

    def check_size(self, max_total_bytes: int) -> None:
        if self.total_bytes > max_total_bytes:
            raise InvalidDatasetError(
                f"{self.pictures.place}: {self.pictures.count} images take {self.total_bytes} "
                f"bytes decoded, the limit is {max_total_bytes}; use fewer or smaller ones"
            )

    def decode(self, file: BinaryIO) -> _Found:
        """Write the pixels of every picture to `file`."""
        found = _Found([], [])
        for picture in self.pictures.each():
            try:
                image = _decode(picture, self.spec, self.limits)
            except (OSError, FendError) as error:
                found.bad.append(f"{picture.name} cannot be used: {error}")
                continue
            if self.one_size and image.resized:
                raise InvalidDatasetError(
                    f"{picture.name} is {image.source_size_px} pixels (height, width), the first "
                    f"is {self.image_shape[1:]}; make all of one size"
                )
            file.write((image.pixels * 255).round().to(torch.uint8).numpy().data)
            found.labels.append(picture.label)
        if found.bad and (not self.skip_bad or not found.labels):
            raise InvalidDatasetError(self.told(found))
        return found

    def told(self, found: _Found) -> str:
        """What is bad, in words."""
        if len(found.bad) == 1:
            return found.bad[0]
        more = f"; and {len(found.bad) - NAMED} more" if len(found.bad) > NAMED else ""
        named = "; ".join(found.bad[:NAMED])
        return f"{len(found.bad)} of {self.pictures.count} pictures cannot be used: {named}{more}"

    def image_set(self, found: _Found, kept: Tensor | Path, tell: Tell) -> ImageSet:
        """Of the pixels, or of the file that holds them."""
        if found.bad:
            tell(f"passed over: {self.told(found)}")
        mapping = None
        if isinstance(kept, Path):
            with kept.open("rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            kept = torch.frombuffer(mapping, dtype=torch.uint8)
        images = kept.view(len(found.labels), *self.image_shape)
        if self.one_size and bool((images == images[:, :1]).all()):
            images = images[:, :1].clone()
        labels = torch.tensor(found.labels)
        names = self.pictures.label_names
        return ImageSet(self.pictures.name, images, labels, names, mapping=mapping)


def _in_memory(work: _Work, tell: Tell) -> ImageSet:
    pixels = torch.empty(work.total_bytes, dtype=torch.uint8)
    file = _Into(pixels)
    found = work.decode(file)  # type: ignore[arg-type]
    return work.image_set(found, pixels[: file.written], tell)


class _Into:
    """A file that is a tensor."""

    def __init__(self, pixels: Tensor) -> None:
        self._room = memoryview(pixels.numpy())  # type: ignore[arg-type]
        self.written = 0

    def write(self, data: memoryview) -> None:
        """Append bytes."""
        self._room[self.written : self.written + data.nbytes] = data.cast("B")
        self.written += data.nbytes


def _kept(work: _Work, path: Path) -> _Found | None:
    """What an earlier call decoded."""
    try:
        found = _Found(**json.loads(path.with_suffix(".json").read_bytes()))
        size = path.stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    whole = size == len(found.labels) * torch.Size(work.image_shape).numel()
    return found if whole and found.labels else None


def _own_size(pictures: Pictures, limits: DecodeLimits) -> InputSpec:
    first = next(pictures.each())
    try:
        probe = _decode(first, InputSpec(channels=3, height_px=1, width_px=1), limits)
    except (OSError, FendError) as error:
        raise InvalidDatasetError(f"{first.name} cannot be used: {error}") from error
    height_px, width_px = probe.source_size_px
    return InputSpec(channels=3, height_px=height_px, width_px=width_px)


def _decode(picture: Picture, spec: InputSpec, limits: DecodeLimits) -> DecodedImage:
    return decode(picture.read(limits.max_bytes + 1), spec, limits)


def sorted_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Each once, in the order of their names, numbers by value."""
    different = set(names)
    if all(name.isdecimal() for name in different):
        return tuple(sorted(different, key=lambda name: (int(name), name)))
    return tuple(sorted(different))
