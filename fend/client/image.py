"""What the client takes as an image, and the bytes that are sent for it."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from fend.errors import Invalid

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image as Pillow

Image: TypeAlias = (
    "bytes | str | os.PathLike[str] | BinaryIO | Pillow.Image | np.ndarray[Any, np.dtype[Any]]"
)
"""A whole PNG, JPEG, WebP or BMP file: its bytes, its path, or open in binary mode; a Pillow image;
or an array of pixels of shape (height, width) or (height, width, 3): uint8, or floats in [0, 1],
which are rounded to 8 bits."""


class NotAnImage(Invalid, TypeError):
    """An object of a type that holds no image."""

    code = "image_unreadable"


def image_bytes(image: Image) -> bytes:
    """The file of `image`: as it is, or a PNG of its pixels.

    Raises:
        NotAnImage: it is of another type; also a TypeError.
        Invalid (`image_unreadable`): its file or its pixels cannot be read.
    """
    held: Any = image
    try:
        if isinstance(held, bytes | bytearray | memoryview):
            return bytes(held)
        if isinstance(held, str | os.PathLike):
            return Path(held).read_bytes()
        if hasattr(held, "read"):
            held = held.read()
            if isinstance(held, bytes):
                return held
            raise NotAnImage("the file must be open in binary mode")
        return _png(held)
    except (OSError, ValueError) as error:
        name = image if isinstance(image, str | os.PathLike) else f"the {type(image).__name__}"
        reason = getattr(error, "strerror", None) or error
        raise Invalid(f"{name} cannot be read: {reason}", code="image_unreadable") from error


def _png(held: Any) -> bytes:
    from PIL import Image as Pillow
    from PIL import ImageOps

    if hasattr(held, "__array_interface__") and not isinstance(held, Pillow.Image):
        if held.dtype.kind == "f":
            if not (held.size and held.min() >= 0 and held.max() <= 1):
                raise ValueError("its numbers are not all in [0, 1]")
            held = (255 * held).round().astype("uint8")
        try:
            held = Pillow.fromarray(held)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"an array of {held.dtype} of shape {held.shape} is no image; give uint8 or floats "
                "in [0, 1], as (height, width) or (height, width, 3)"
            ) from error
    if not isinstance(held, Pillow.Image):
        raise NotAnImage(
            "an image is bytes, a path, an open file, a Pillow image or a numpy array, and no "
            f"{type(held).__name__}"
        )
    held = ImageOps.exif_transpose(held)  # a PNG of its pixels would not say how it is turned
    if held.mode in ("CMYK", "YCbCr", "LAB", "HSV"):  # which PNG does not have
        held = held.convert("RGB")
    file = io.BytesIO()
    held.save(file, "PNG")
    return file.getvalue()
