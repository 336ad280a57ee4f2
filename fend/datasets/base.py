"""A labelled image set, and the errors that reading one can raise."""

import hashlib
import json
import mmap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fend.errors import Invalid

MAX_LABEL_CHARACTERS = 200
_BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)

_COPIED_BYTES = 2**28
"""Of a set whose parts are copies."""
_HASHED_BYTES = 2**24

_UNSHOWN = ("Cc", "Cs", "Zl", "Zp")  # control, half of a pair, ends of lines and paragraphs


class MissingDatasetError(Invalid):
    """The data set is known, but its files are not here."""

    code = "dataset_missing"


class InvalidDatasetError(Invalid):
    """The caller's own images or labels cannot be used as they are."""

    code = "dataset_invalid"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels; two sets are the same when their digests are.

    Attributes:
        name: spec of its source, such as "mnist:test".
        images: uint8 (N, C, H, W), in memory or mapped into it; with `rows` more than N of them.
        labels: int64 (N,), each in [0, len(label_names)).
        label_names: name of each label.
        groups: int64 (N,): images with the same number show the same object, such as one filmed
            sign; None where nothing says.
        rows: int64 (N,): places in `images` of this set's, so that a part of a large set takes no
            memory; None where they are all of them.
        mapping: of the file that holds `images`, whose pages are given back once they are read;
            None where they are in memory.

    Raises:
        InvalidDatasetError: dtypes, shapes or labels are not as above.
    """

    name: str
    images: Tensor
    labels: Tensor
    label_names: tuple[str, ...]
    groups: Tensor | None = None
    rows: Tensor | None = None
    mapping: mmap.mmap | None = None

    def __post_init__(self) -> None:
        self._check()

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, indices: Tensor | slice) -> Tensor:
        """The chosen images as float32 (len, C, H, W) in [0, 1]."""
        return self._levels(indices).to(torch.float32).div_(255)

    def _levels(self, indices: Tensor | slice) -> Tensor:
        levels = self.images[indices if self.rows is None else self.rows[indices]]
        if self.mapping is None:
            return levels
        if isinstance(indices, slice) and self.rows is None:
            levels = levels.clone()  # a view
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self.mapping.madvise(mmap.MADV_DONTNEED)
        return levels

    def sample(self, count: int | None, seed: int) -> Tensor:
        """Draw `count` indices without replacement: int64 (min(count, N),).

        The same seed and digest give the same indices on every machine and version, and a smaller
        count gives the beginning of a larger one. None, or a count of N or more, selects all images
        in their own order.
        """
        if count is not None and count < 1:
            raise InvalidDatasetError(f"a sample needs at least one image, not {count}")
        if seed < 0:
            raise InvalidDatasetError(f"a seed is zero or more, not {seed}")
        if count is None or count >= len(self):
            return torch.arange(len(self))
        # Raw bits of a named generator: numpy guarantees that they never change; torch.randperm
        # has no such guarantee.
        keys = np.random.PCG64(seed).random_raw(len(self))
        return torch.from_numpy(np.argsort(keys, kind="stable")[:count].astype(np.int64))

    def subset(self, indices: Tensor | slice) -> "ImageSet":
        """The chosen images as a set of their own: same name and label names, its own digest."""
        groups = None if self.groups is None else self.groups[indices]
        labels = self.labels[indices]
        if self.images.numel() <= _COPIED_BYTES:
            return ImageSet(self.name, self._levels(indices), labels, self.label_names, groups)
        rows = torch.arange(len(self.images)) if self.rows is None else self.rows
        return replace(self, labels=labels, groups=groups, rows=rows[indices])

    def relabelled(self, label_names: tuple[str, ...]) -> "ImageSet":
        """The same images with labels numbered by another list of names, such as a model's.

        A name is found where it is there, or else where it is but for case, "_" for a space, and
        further names after a comma, as ImageNet's classes have them.

        Raises:
            InvalidDatasetError: when the name of an image is not in `label_names`, or two names are
                the same one there.
        """
        if label_names == self.label_names:
            return self
        places = _places(self.label_names, label_names)
        used = [self.label_names[label] for label in sorted(set(self.labels.tolist()))]
        unknown = [name for name in used if name not in places]
        if unknown:
            raise InvalidDatasetError(
                f"{self.name} has labels that are not among {some(label_names)}: {some(unknown)}"
            )
        by_place: dict[int, str] = {}
        for name in used:
            if (other := by_place.setdefault(places[name], name)) != name:
                raise InvalidDatasetError(
                    f"{self.name}: {other} and {name} are both {label_names[places[name]]}"
                )
        positions = torch.tensor([places.get(name, 0) for name in self.label_names])
        return replace(self, labels=positions[self.labels], label_names=label_names)

    def _check(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or 0 in images.shape:
            raise InvalidDatasetError(
                f"{self.name}: images must be uint8 (N, C, H, W) with nothing empty, "
                f"not {images.dtype} {tuple(images.shape)}"
            )
        count = len(images if self.rows is None else self.rows)
        if labels.dtype != torch.int64 or labels.shape != (count,) or not count:
            raise InvalidDatasetError(
                f"{self.name}: {count} images need int64 labels of shape ({count},), "
                f"not {labels.dtype} {tuple(labels.shape)}"
            )
        try:
            check_label_names(self.label_names)
        except ValueError as error:
            raise InvalidDatasetError(f"{self.name}: {error}") from error
        if self.groups is not None and self.groups.shape != labels.shape:
            raise InvalidDatasetError(
                f"{self.name}: groups must have a number for each of the {len(images)} images, "
                f"not the shape {tuple(self.groups.shape)}"
            )
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= len(self.label_names):
            raise InvalidDatasetError(
                f"{self.name}: labels must lie in 0..{len(self.label_names) - 1}, "
                f"but go from {lowest} to {highest}"
            )

    @cached_property
    def digest(self) -> str:
        """ "sha256:..." over shape, pixels, labels and label names, but not name and groups."""
        shape = [len(self), *self.images.shape[1:]]
        header = {"shape": shape, "label_names": list(self.label_names)}
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        at_once = max(1, _HASHED_BYTES // self.images[0].numel())
        for part in torch.split(torch.arange(len(self)), at_once):
            digest.update(np.ascontiguousarray(self._levels(part).numpy()).data)
        digest.update(np.ascontiguousarray(self.labels.numpy().astype("<i8")).data)
        return f"sha256:{digest.hexdigest()}"


def _places(names: Sequence[str], known: Sequence[str]) -> dict[str, int]:
    """Where `known` has each of `names`, as `ImageSet.relabelled` finds them."""
    places = {name: place for place, name in enumerate(known)}
    alike: dict[str, set[int]] = {}
    for place, name in enumerate(known):
        for form in (name, *name.split(",")):
            alike.setdefault(_plain(form), set()).add(place)
    found = {}
    for name in names:
        forms = (alike.get(_plain(form), set()) for form in (name, *name.split(",")))
        if name in places:
            found[name] = places[name]
        elif (one := next((form for form in forms if len(form) == 1), None)) is not None:
            (found[name],) = one
    return found


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).replace("_", " ").strip().casefold()


def some(names: Sequence[str]) -> str:
    """The names, or as many of them as a line holds."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more


def check_label_names(names: Sequence[str]) -> Sequence[str]:
    """`names`, which people can tell apart and any page, log or terminal can show.

    Raises:
        ValueError: one is empty, blank, too long, equal to another or has control characters.
    """
    seen: set[str] = set()
    for name in names:
        plain = unicodedata.normalize("NFC", name).strip()
        if len(name) > MAX_LABEL_CHARACTERS:
            problem = f"has more than {MAX_LABEL_CHARACTERS} characters"
        elif any(c in _BIDIRECTIONAL or unicodedata.category(c) in _UNSHOWN for c in name):
            problem = "has control characters"
        elif not any(c.isprintable() for c in plain):
            problem = "is empty"
        elif plain in seen:
            problem = "comes twice"
        else:
            seen.add(plain)
            continue
        raise ValueError(f"the label {name[:50]!a} {problem}; rename it")
    return names
