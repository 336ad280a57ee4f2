"""What a source of classifiers, or the user, says of the network besides its weights."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from fend.errors import Invalid
from fend.images import InputSpec
from fend.images.spec import Interpolation, Resize


class ForeignInvalid(Invalid):
    """A classifier of the user's cannot be taken; the message says what to change."""

    code = "classifier_invalid"


@dataclass(frozen=True)
class Said:
    """None where nothing is said. `mean` and `std` are of pixels in [0, 1], a number a channel, in
    the order in which the network takes the channels."""

    channels: int | None = None
    size_px: tuple[int, int] | None = None
    """Height and width."""
    resize: Resize | None = None
    crop_from_px: int | None = None
    interpolation: Interpolation | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bgr: bool | None = None
    """Whether the network takes blue first."""
    labels: tuple[str, ...] | None = None

    def over(self, source: "Said") -> "Said":
        """This, and what `source` says where this says nothing."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        both = replace(source, **{name: what for name, what in own.items() if what is not None})
        if self.crop_from_px is not None or source.crop_from_px is None:
            return both
        if self.resize not in (None, source.resize):
            return replace(both, crop_from_px=None)
        if self.size_px is not None and source.size_px is not None:
            longest = max(self.size_px)  # the same part of the picture is cut off
            px = round(source.crop_from_px * longest / max(source.size_px))
            return replace(both, crop_from_px=max(px, longest))
        return both

    def input_spec(self, otherwise: InputSpec | None) -> InputSpec | None:
        """The input of the bundle; `otherwise` where nothing is said. None where the size is known
        from nowhere.

        Raises:
            ForeignInvalid: there is no such input.
        """
        if otherwise is None and self.size_px is None:
            return None
        written: dict[str, Any] = {} if otherwise is None else otherwise.model_dump()
        channels = self.channels or written.get("channels", 3)
        if channels != written.get("channels"):  # another kind of picture
            written = {"channels": channels, "resize": "crop" if channels == 3 else "fit"}
        if self.size_px is not None:
            written["height_px"], written["width_px"] = self.size_px
        for name in ("resize", "crop_from_px", "interpolation"):
            if getattr(self, name) is not None:
                written[name] = getattr(self, name)
        try:
            return InputSpec.model_validate(written)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "input"
            raise ForeignInvalid(f"the classifier's {key}: {first['msg']}") from error


def said_by_user(
    *,
    labels: Path | None = None,
    size: str | None = None,
    resize: str | None = None,
    interpolation: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    bgr: bool | None = None,
) -> Said:
    """What flags say: `size` is "224" or "HEIGHTxWIDTH", `resize` such as "fit" or "crop:256",
    `mean` and `std` are numbers between commas, of pixels in [0, 1], or in 0..255 where one of them
    is above 1.

    Raises:
        ForeignInvalid: one of them cannot be read.
    """
    how = re.fullmatch(rf"({'|'.join(get_args(Resize))})(?::(\d+))?", resize or "fit")
    if how is None:
        known = ", ".join(get_args(Resize))
        raise ForeignInvalid(f"--resize is one of {known}, or such as crop:256, not {resize!r}")
    if interpolation is not None and interpolation not in get_args(Interpolation):
        known = ", ".join(get_args(Interpolation))
        raise ForeignInvalid(f"--interpolation is one of {known}, not {interpolation!r}")
    means, stds = _numbers("--mean", mean), _numbers("--std", std)
    if max((*(means or ()), *(stds or ())), default=0.0) > 1:
        means = means and tuple(value / 255 for value in means)
        stds = tuple(value / 255 for value in stds or (1.0,))
    return Said(
        size_px=None if size is None else _size(size),
        resize=None if resize is None else how[1],  # type: ignore[arg-type]
        crop_from_px=None if how[2] is None else int(how[2]),
        interpolation=interpolation,  # type: ignore[arg-type]
        mean=means,
        std=stds,
        bgr=bgr,
        labels=None if labels is None else read_labels(labels),
    )


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line, in the order of the logits; "imagenet" stands for its thousand.

    Raises:
        ForeignInvalid: no text file, or a line without a label.
    """
    if str(path) == "imagenet" and not path.exists():
        from torchvision.models import ResNet18_Weights

        return distinct(ResNet18_Weights.DEFAULT.meta["categories"])
    try:
        labels = tuple(line.strip() for line in path.read_text("utf-8").rstrip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ForeignInvalid(f"{path} is no text file of labels, one a line: {error}") from error
    if not labels or "" in labels:
        line = labels.index("") + 1 if labels else 1
        raise ForeignInvalid(
            f"{path}, line {line}: no label; write one a line, in the order of the logits"
        )
    return labels


def distinct(labels: Iterable[str]) -> tuple[str, ...]:
    """Each label once: ImageNet has two sorts of crane, of which one becomes "crane (2)"."""
    chosen: list[str] = []
    for label in labels:
        name, number = label, 1
        while name in chosen:
            number += 1
            name = f"{label} ({number})"
        chosen.append(name)
    return tuple(chosen)


def _size(written: str) -> tuple[int, int]:
    height, cross, width = written.partition("x")
    if not height.isdigit() or (cross and not width.isdigit()):
        raise ForeignInvalid(f"--size is such as 224, or 224x320 (height x width), not {written!r}")
    return int(height), int(width or height)


def _numbers(flag: str, written: str | None) -> tuple[float, ...] | None:
    if written is None:
        return None
    try:
        numbers = tuple(float(part) for part in written.split(","))
    except ValueError as error:
        raise ForeignInvalid(
            f"{flag} is a number a channel, such as 0.485,0.456,0.406, not {written!r}"
        ) from error
    if flag == "--std" and min(numbers) <= 0:
        raise ForeignInvalid(f"--std is above 0, not {written}")
    return numbers
