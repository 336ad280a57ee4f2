"""What the readers of the four file formats share.

Each reader walks the structure of the file without decoding a pixel. Pillow could tell the size
too, but it parses much else on the way (text and colour profiles to inflate, EXIF, indexes of
several pictures), allocates, and speaks through Python warnings, whose filters are shared by all
threads. So a reader answers the questions that come first, and hands on the parts that make pixels.
"""

from dataclasses import dataclass
from typing import Literal

from fend.errors import Invalid, TooLarge

ImageFormat = Literal["png", "jpeg", "webp", "bmp"]

# A picture has a few dozen parts, or a few thousand when written in small pieces. A flood of empty
# ones would only hold the interpreter.
MAX_PARTS = 20_000


@dataclass(frozen=True)
class Container:
    """One picture, not decoded yet.

    Attributes:
        stream: the file as Pillow gets it.
        size_px: (height, width) as stored, before `orientation` is applied.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        transparent_colour: the grey or RGB value that stands for "transparent", in the scale of
            Pillow's decoded samples.
        rare: a kind that not every build of Pillow reads, and none at a reduced size.
    """

    format: ImageFormat
    stream: bytes
    size_px: tuple[int, int]
    orientation: int = 1
    transparent_colour: tuple[int, ...] | None = None
    rare: bool = False


def check_size(height_px: int, width_px: int, max_pixels: int) -> None:
    """Call as soon as the size is known.

    Raises:
        TooLarge: `image_too_many_pixels`.
        Invalid: `image_corrupt`, for a size of zero or less.
    """
    if height_px < 1 or width_px < 1:
        raise Invalid(
            f"The image claims to be {width_px}x{height_px} pixels. Save it again.",
            code="image_corrupt",
        )
    if height_px * width_px > max_pixels:
        raise TooLarge(
            f"The image has {width_px}x{height_px} = {width_px * height_px} pixels, "
            f"at most {max_pixels} are accepted. Scale it down.",
            code="image_too_many_pixels",
        )
