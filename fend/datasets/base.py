"""A labelled image set in memory, and the errors that reading one can raise."""

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fend.errors import Invalid

MAX_LABEL_CHARACTERS = 200
_BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)

_UNSHOWN = ("Cc", "Cs", "Zl", "Zp")  # control, half of a pair, ends of lines and paragraphs


class MissingDatasetError(Invalid):
    """The data set is known, but its files are not here."""

    code = "dataset_missing"


class InvalidDatasetError(Invalid):
    """The caller's own images or labels cannot be used as they are."""

    code = "dataset_invalid"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels, all in memory; two sets are the same when their digests are.

    Attributes:
        name: spec of its source, such as "mnist:test".
        images: uint8 (N, C, H, W).
        labels: int64 (N,), each in [0, len(label_names)).
        label_names: name of each label.
        groups: int64 (N,): images with the same number show the same object, such as one filmed
            sign; None where nothing says.
        digest: "sha256:..." over shape, pixels, labels and label names, but not name and groups.

    Raises:
        InvalidDatasetError: dtypes, shapes or labels are not as above.
    """

    name: str
    images: Tensor
    labels: Tensor
    label_names: tuple[str, ...]
    groups: Tensor | None = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        self._check()
        object.__setattr__(self, "digest", self._compute_digest())

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, indices: Tensor | slice) -> Tensor:
        """The chosen images as float32 (len, C, H, W) in [0, 1]."""
        return self.images[indices].to(torch.float32).div_(255)

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
        images, labels = self.images[indices], self.labels[indices]
        return ImageSet(self.name, images, labels, self.label_names, groups)

    def relabelled(self, label_names: tuple[str, ...]) -> "ImageSet":
        """The same images with labels numbered by another list of names, such as a model's.

        Raises:
            InvalidDatasetError: when a name of this set is not in `label_names`.
        """
        if label_names == self.label_names:
            return self
        unknown = [name for name in self.label_names if name not in label_names]
        if unknown:
            raise InvalidDatasetError(
                f"{self.name} has labels that are not among {', '.join(label_names)}: "
                f"{', '.join(unknown)}"
            )
        positions = torch.tensor([label_names.index(name) for name in self.label_names])
        return ImageSet(self.name, self.images, positions[self.labels], label_names, self.groups)

    def _check(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or 0 in images.shape:
            raise InvalidDatasetError(
                f"{self.name}: images must be uint8 (N, C, H, W) with nothing empty, "
                f"not {images.dtype} {tuple(images.shape)}"
            )
        if labels.dtype != torch.int64 or labels.shape != (len(images),):
            raise InvalidDatasetError(
                f"{self.name}: {len(images)} images need int64 labels of shape ({len(images)},), "
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

    def _compute_digest(self) -> str:
        header = {"shape": list(self.images.shape), "label_names": list(self.label_names)}
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.images.numpy()).data)
        digest.update(np.ascontiguousarray(self.labels.numpy().astype("<i8")).data)
        return f"sha256:{digest.hexdigest()}"


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
