"""What a finished cell leaves behind: one small JSON file, without any image."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fend.threat import Knowledge
from reproduction.cells import Cell, Group


def to_marks(wrong: Collection[int], images: Sequence[int]) -> str:
    """`wrong` of `images`, both places in the data set, as a text that stays small: hex digits of a
    number whose lowest bit is the first image. So cells on the same images can be compared image by
    image."""
    return f"{sum(1 << rank for rank, place in enumerate(images) if place in wrong):x}"


def from_marks(text: str) -> frozenset[int]:
    """The ranks, from 0, of the images that `to_marks` was given as wrong."""
    bits = int(text, 16)
    return frozenset(rank for rank in range(bits.bit_length()) if bits >> rank & 1)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Part):
    """How many of `n` images are answered right. With `wrong`, which ones are not."""

    correct: int
    n: int
    wrong: str | None = Field(default=None, pattern=r"^[0-9a-f]+$")
    """As `to_marks` writes it."""

    @property
    def accuracy(self) -> float:
        return self.correct / self.n

    @property
    def wrong_ranks(self) -> frozenset[int]:
        """Which of the attacked images, counted from 0."""
        assert self.wrong is not None, "kept for every line of an attack"
        return from_marks(self.wrong)


class AtLevel(_Part):
    """The paper's two attacks by an attacker who knows so much. Wrong clean counts as wrong."""

    fgsm: Measured
    pgd: Measured
    worst: Measured
    """Per image, of all attacks at this level."""


class UnderThreat(_Part):
    epsilon: float
    levels: dict[Knowledge, AtLevel]
    """Counts by level; `worst` of white_box is also over the further white-box attacks."""
    white_box_attacks: tuple[str, ...]
    """Those further ones."""
    at_zero: Measured
    """White-box at epsilon 0: the clean accuracy, or the attack is broken."""
    at_half: Measured
    """White-box at epsilon 0.5, where every image can be made grey."""


class Detection(_Part):
    """A detector with its threshold set on held-out training images."""

    detector: str
    threshold: float | None
    """Score above which an image is flagged; None for a detector without one."""
    false_positives: Measured
    """Clean test images that it flags ("correct" counts the flagged ones)."""
    detected: dict[str, Measured]
    """Flagged images among those that fool the classifier, by attack."""


class CellResult(_Part):
    format: Literal["fend-reproduce/2"] = "fend-reproduce/2"
    key: str
    data: str
    group: Group
    defence: str
    seed: int
    profile: str
    recipe: str
    denoiser: str
    classifier: str
    loss: str | None
    """Network, taps, scaling."""
    train_images: int
    classifier_epochs: int
    denoiser_epochs: int
    clean: Measured
    clean_undefended: Measured
    """The classifier alone."""
    threats: tuple[UnderThreat, ...]
    detection: tuple[Detection, ...]
    model_version: str
    dataset_digest: str
    index_digest: str
    """Digest of the attacked images' places."""
    train_s: float
    """Time in this process: less than all where a run was resumed, or a classifier was there."""
    attack_s: float
    cpu_s: float | None = None
    """Processor time of both, which other load on the machine does not change."""
    made_with: dict[str, str]

    def under(self, epsilon: float) -> UnderThreat:
        """The numbers at `epsilon`, which is one of the cell's."""
        return next(threat for threat in self.threats if threat.epsilon == epsilon)


def result_path(out: Path, cell: Cell) -> Path:
    return out / "cells" / f"{cell.name}.json"


def read_results(out: Path) -> list[CellResult]:
    """Every finished cell in `out`, by name, whatever profile made it."""
    paths = sorted((out / "cells").glob("*.json"))
    return [CellResult.model_validate_json(path.read_bytes()) for path in paths]


def is_done(out: Path, cell: Cell) -> bool:
    """Whether `out` has the result of this very cell, and not of an older recipe."""
    path = result_path(out, cell)
    try:
        return path.is_file() and CellResult.model_validate_json(path.read_bytes()).key == cell.key
    except ValidationError:
        return False
