"""One uploaded data set on disk: a folder with `images.npz`, decoded and checked, and a summary."""

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from fend.datasets import ImageSet, load
from fend.errors import Invalid, NotFound
from fend.files import replace_atomically, sync

PREFIX = "upload:"
ID_DIGITS = 16
_IMAGES = "images.npz"
_SUMMARY = "summary.json"


class SetSummary(BaseModel, frozen=True, extra="forbid"):
    """What there is to know of an uploaded data set."""

    id: str
    """The beginning of `digest`: the same images and labels have the same id."""
    digest: str
    images: int
    channels: int
    height_px: int
    width_px: int
    images_by_label: dict[str, int]
    """Number of images by label, in the order of the labels."""
    bytes: int
    """On disk."""
    created_at: datetime


@dataclass(frozen=True)
class UploadedSet:
    """A set that is complete on disk."""

    folder: Path
    summary: SetSummary

    @classmethod
    def read(cls, folder: Path) -> "UploadedSet":
        """The set in `folder`; raises NotFound, Invalid."""
        try:
            text = (folder / _SUMMARY).read_bytes()
        except OSError as error:
            raise NotFound(
                f"there is no uploaded data set {folder.name}; GET /v1/admin/datasets lists them",
                code="upload_unknown",
            ) from error
        try:
            return cls(folder, SetSummary.model_validate_json(text))
        except ValidationError as error:
            raise _corrupt(folder.name) from error

    @classmethod
    def write(cls, folder: Path, image_set: ImageSet, now: datetime) -> "UploadedSet":
        """Keep `image_set` in `folder`, which is empty; it is on disk when this returns."""
        with (folder / _IMAGES).open("xb") as file:
            np.savez(
                file,
                images=image_set.images.numpy(),
                labels=image_set.labels.numpy(),
                label_names=np.array(image_set.label_names),
            )
        sync(folder / _IMAGES)
        count, channels, height_px, width_px = image_set.images.shape
        by_label = np.bincount(image_set.labels.numpy(), minlength=len(image_set.label_names))
        summary = SetSummary(
            id=image_set.digest.removeprefix("sha256:")[:ID_DIGITS],
            digest=image_set.digest,
            images=count,
            channels=channels,
            height_px=height_px,
            width_px=width_px,
            images_by_label=dict(zip(image_set.label_names, by_label.tolist(), strict=True)),
            bytes=(folder / _IMAGES).stat().st_size,
            created_at=now,
        )
        replace_atomically(folder / _SUMMARY, summary.model_dump_json(), durable=True)
        return cls(folder, summary)

    def load(self) -> ImageSet:
        """The images, under the set's public name; raises Invalid."""
        image_set = load(f"npz:{self.folder / _IMAGES}", None)
        if image_set.digest != self.summary.digest:
            raise _corrupt(self.summary.id)
        return dataclasses.replace(image_set, name=PREFIX + self.summary.id)


def _corrupt(set_id: str) -> Invalid:
    return Invalid(
        f"the files of the uploaded data set {set_id} have changed on disk; delete the set and "
        "upload it again",
        code="dataset_corrupt",
    )
