"""What a model takes as input, and how much an upload may ask of us."""

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

Resize = Literal["fit", "stretch", "crop"]
Interpolation = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]


class InputSpec(BaseModel, frozen=True, extra="forbid"):
    """The picture that a model expects; stored in a bundle's manifest.

    Attributes:
        channels: 1 is grey (ITU-R BT.601 luma), 3 is RGB.
        background: what transparent pixels and padding are in the result.
        resize: `fit` keeps the aspect ratio and pads, `stretch` fills height and width, `crop`
            keeps the aspect ratio, fills them and cuts the centre out. A picture that has the size
            already is left as it is.
        crop_from_px: with `crop` what the shorter side is scaled to, with `stretch` both sides,
            before the centre is cut out; None is the size itself.
        interpolation: filter of the scaling, antialiased as Pillow does.
        polarity: `light_on_dark` inverts pictures that are dark on light (see `polarity.py`).
    """

    channels: Literal[1, 3]
    height_px: int = Field(ge=1, le=4096)
    width_px: int = Field(ge=1, le=4096)
    background: Literal["black", "white"] = "black"
    resize: Resize = "fit"
    # Not written where they are as they were before there were such fields: digests stay.
    crop_from_px: int | None = Field(default=None, ge=1, le=4096, exclude_if=lambda px: px is None)
    interpolation: Interpolation = Field(
        default="bilinear", exclude_if=lambda name: name == "bilinear"
    )
    polarity: Literal["as_is", "light_on_dark"] = "as_is"

    @model_validator(mode="after")
    def _light_needs_dark(self) -> Self:
        if self.polarity == "light_on_dark" and self.background == "white":
            raise ValueError("polarity 'light_on_dark' needs background 'black'")
        return self

    @model_validator(mode="after")
    def _crop_is_inside(self) -> Self:
        if self.crop_from_px is not None:
            if self.resize == "fit":
                raise ValueError("crop_from_px belongs to resize 'crop' or 'stretch', not to 'fit'")
            if self.crop_from_px < max(self.height_px, self.width_px):
                raise ValueError("crop_from_px is at least height_px and width_px")
        return self


JPEG_FACTOR = 4


@dataclass(frozen=True)
class DecodeLimits:
    """Upper bounds, checked before any pixel is decoded.

    A JPEG may have `JPEG_FACTOR` times `max_pixels`: telephones take photos of 50 million, and a
    large one is decoded at a reduced scale. Pillow's own bound (`PIL.Image.MAX_IMAGE_PIXELS`, 89
    million) holds as well: a greater `max_pixels` has no effect.
    """

    max_bytes: int = 10 * 2**20
    max_pixels: int = 16_000_000

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.max_pixels < 1:
            raise ValueError(f"limits must be at least 1, got {self}")


DEFAULT_LIMITS = DecodeLimits()
