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


def image_bytes(image: Image) -> bytes:
    """The file of `image`: as it is, or a PNG of its pixels.

    Raises:
        Invalid: `image_unreadable`.
    """
    held: Any = image
    try:
        if isinstance(held, bytes | bytearray | memoryview):
            return bytes(held)
        if isinstance(held, str | os.PathLike):
            return Path(held).read_bytes()
        if hasattr(held, "read"):
            read = held.read()
            if isinstance(read, bytes):
                return read
            raise TypeError("the file must be open in binary mode")
        return _png(held)
    except OSError as error:
        reason = error.strerror or str(error)
    except (TypeError, ValueError) as error:
        reason = str(error)
    name = (
        held if isinstance(held, str | os.PathLike) else f"an image of type {type(held).__name__}"
    )
    raise Invalid(f"{name} cannot be read: {reason}", code="image_unreadable")


def _png(held: Any) -> bytes:
    from PIL import Image as Pillow

    if not isinstance(held, Pillow.Image):
        if not hasattr(held, "__array_interface__"):
            raise TypeError("give bytes, a path, an open file, a Pillow image or a numpy array")
        if held.dtype.kind == "f":
            if not (held.min() >= 0 and held.max() <= 1):
                raise ValueError("its numbers are not all in [0, 1]")
            held = (255 * held).round().astype("uint8")
        held = Pillow.fromarray(held)
    file = io.BytesIO()
    held.save(file, "PNG")
    return file.getvalue()
