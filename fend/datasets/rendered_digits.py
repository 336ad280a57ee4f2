"""Typeset digits, rendered from the font inside Pillow: a data set of any size without a file.

Light on dark, 28x28, of about the size and place of MNIST's. For tests and trial trainings, not for
claims. Every image depends on the split and its index alone. Another version of Pillow or
FreeType may render edges differently, which shows in the digest.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from fend.datasets.base import ImageSet, InvalidDatasetError, MissingDatasetError

COUNTS = {"train": 6_000, "test": 1_000}
LABEL_NAMES = tuple("0123456789")

_SPLIT_SEEDS = {"train": 1, "test": 2}
_SIDE_PX = 28
_OVERSAMPLING = 2  # rendered and warped at twice the size, then averaged down
_CANVAS_PX = _SIDE_PX * _OVERSAMPLING
_FONT_PX = 50  # digits are about 18 px high after averaging down; strokes add up to 3
_STROKES_PX = (0, 1, 2, 3)  # on the canvas, added on each side of the line


def load(split: str, count: int | None = None) -> ImageSet:
    """Render the first `count` images of the split "train" or "test": uint8 (count, 1, 28, 28).

    Labels take turns, 0 to 9; a longer set begins with the shorter one.

    Raises:
        MissingDatasetError: when Pillow was built without FreeType.
        InvalidDatasetError: when `count` is below 1.
    """
    count = COUNTS[split] if count is None else count
    if count < 1:
        raise InvalidDatasetError(f"rendered-digits needs at least one image, not {count}")
    glyphs = _draw_glyphs()
    images = np.empty((count, 1, _SIDE_PX, _SIDE_PX), dtype=np.uint8)
    for index in range(count):
        style = _Style.draw(_SPLIT_SEEDS[split], index)
        images[index, 0] = np.asarray(style.apply(glyphs[index % 10, style.stroke_px]))
    return ImageSet(
        name=f"rendered-digits:{split}",
        images=torch.from_numpy(images),
        labels=torch.arange(count) % 10,
        label_names=LABEL_NAMES,
    )


@dataclass(frozen=True)
class _Style:
    rotation_rad: float
    shear: float
    scale_x: float
    scale_y: float
    shift_x_px: float  # on the canvas, as shift_y_px
    shift_y_px: float
    blur_px: float  # standard deviation, in the finished image
    stroke_px: int

    @classmethod
    def draw(cls, split_seed: int, index: int) -> "_Style":
        # Raw bits rather than a Generator's methods: numpy guarantees that they never change.
        raw = np.random.PCG64([split_seed, index]).random_raw(8)
        unit = [float(value) for value in (raw >> np.uint64(11)) * 2.0**-53]  # [0, 1)

        def between(low: float, high: float) -> float:
            return low + (high - low) * unit.pop()

        return cls(
            rotation_rad=math.radians(between(-12, 12)),
            shear=between(-0.2, 0.2),
            scale_x=between(0.8, 1.2),
            scale_y=between(0.85, 1.05),
            shift_x_px=between(-3, 3),
            shift_y_px=between(-3, 3),
            blur_px=between(0.2, 0.8),
            stroke_px=_STROKES_PX[int(between(0, len(_STROKES_PX)))],
        )

    def apply(self, glyph: Image.Image) -> Image.Image:
        """Scale, shear, rotate and shift about the centre, blur, and average down to 28x28."""
        cos, sin = math.cos(self.rotation_rad), math.sin(self.rotation_rad)
        rotate = np.array([[cos, -sin], [sin, cos]])
        scale = np.array([[self.scale_x, 0], [0, self.scale_y]])
        forward = rotate @ np.array([[1, self.shear], [0, 1]]) @ scale
        backward = np.linalg.inv(forward)  # Pillow asks where each output pixel comes from
        centre = np.full(2, _CANVAS_PX / 2)
        offset = centre - backward @ (centre + np.array([self.shift_x_px, self.shift_y_px]))
        matrix = (*backward[0], offset[0], *backward[1], offset[1])
        warped = glyph.transform(
            glyph.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR
        )
        blurred = warped.filter(ImageFilter.GaussianBlur(self.blur_px * _OVERSAMPLING))
        return blurred.reduce(_OVERSAMPLING)


def _draw_glyphs() -> dict[tuple[int, int], Image.Image]:
    """Each digit in each stroke width, centred on its canvas."""
    try:
        font = ImageFont.load_default(size=_FONT_PX)
    except ImportError as error:
        raise MissingDatasetError(
            f"rendered-digits needs Pillow with FreeType ({error}); install Pillow's own wheel"
        ) from error
    glyphs = {}
    for digit in range(10):
        for stroke_px in _STROKES_PX:
            canvas = Image.new("L", (_CANVAS_PX, _CANVAS_PX))
            left, top, right, bottom = font.getbbox(str(digit), stroke_width=stroke_px)
            corner = ((_CANVAS_PX - left - right) / 2, (_CANVAS_PX - top - bottom) / 2)
            ImageDraw.Draw(canvas).text(
                corner, str(digit), fill=255, font=font, stroke_width=stroke_px
            )
            glyphs[digit, stroke_px] = canvas
    return glyphs
