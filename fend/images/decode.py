"""Untrusted bytes to the tensor that a model takes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from fend.errors import Invalid, TooLarge, Unsupported
from fend.images.content_types import HOW_TO_SEND, claimed_format, media_type
from fend.images.formats import bmp, jpeg, png, webp
from fend.images.formats.container import Container, ImageFormat
from fend.images.pixels import load_upright, scale, to_samples
from fend.images.polarity import is_dark_on_light
from fend.images.spec import DEFAULT_LIMITS, JPEG_FACTOR, DecodeLimits, InputSpec

_READERS: dict[ImageFormat, Callable[[bytes, int], Container]] = {
    "png": png.read_png,
    "jpeg": jpeg.read_jpeg,
    "webp": webp.read_webp,
    "bmp": bmp.read_bmp,
}

# ISO/IEC 23008-12 and the AV1 Image File Format; `mif1` and `msf1` can hold either.
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")

_LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """One picture, ready for a model.

    Attributes:
        pixels: float32 (C,H,W) in [0,1].
        inverted: whether dark on light was turned into light on dark.
        resized: whether the upright picture was scaled or padded to the target size.
        source_size_px: (height, width) of the upright picture that was sent.
    """

    pixels: torch.Tensor
    inverted: bool
    resized: bool
    source_format: ImageFormat
    source_size_px: tuple[int, int]


def decode(
    data: bytes,
    spec: InputSpec,
    limits: DecodeLimits = DEFAULT_LIMITS,
    content_type: str | None = None,
) -> DecodedImage:
    """Decode one PNG, JPEG, WebP or BMP into what `spec` asks for.

    Thread-safe; leaves Python's warnings alone, and of Pillow's state only sets
    `ImageFile.LOAD_TRUNCATED_IMAGES` to False. An image that has the target size already keeps its
    samples: 8-bit pixels are exactly value / 255.

    Args:
        data: the whole file.
        content_type: the media type that the sender declared, see `claimed_format`.

    Raises:
        Invalid, TooLarge, Unsupported: nothing else, whatever the bytes are; `code` says why.
    """
    container = _read_container(data, limits, content_type)
    image = scale(load_upright(container, spec), spec)
    samples, alpha, white = to_samples(image, spec.channels)
    luma = (samples @ _LUMA_WEIGHTS if spec.channels == 3 else samples[..., 0]) / white
    inverted = spec.polarity == "light_on_dark" and is_dark_on_light(luma, alpha)

    # Inverted as whole numbers, so that a negative gives exactly the pixels of its positive; and
    # before compositing, so that dark strokes stay visible on the background.
    colour = (white - samples if inverted else samples) / white
    background = np.float32(spec.background == "white")
    if alpha is not None:
        colour = colour * alpha[..., None] + background * (1 - alpha[..., None])

    target_px = (spec.height_px, spec.width_px)
    height, width = colour.shape[:2]
    canvas = colour
    if (height, width) != target_px:
        canvas = np.full((*target_px, spec.channels), background, dtype=np.float32)
        top, left = (target_px[0] - height) // 2, (target_px[1] - width) // 2
        canvas[top : top + height, left : left + width] = colour

    turned = container.orientation >= 5
    source_size_px = container.size_px[::-1] if turned else container.size_px
    return DecodedImage(
        pixels=torch.from_numpy(np.ascontiguousarray(canvas.transpose(2, 0, 1))),
        inverted=inverted,
        resized=source_size_px != target_px,
        source_format=container.format,
        source_size_px=source_size_px,
    )


def _read_container(data: bytes, limits: DecodeLimits, content_type: str | None) -> Container:
    if not data:
        raise Invalid("The request has no image. Send the bytes of one file.", code="empty_body")
    if len(data) > limits.max_bytes:
        raise TooLarge(
            f"The image has {len(data)} bytes, at most {limits.max_bytes} are accepted. "
            "Scale it down or compress it.",
            code="image_too_large_bytes",
        )
    found = _sniff(data)
    if found is None:
        raise Unsupported(_what_else(data), code="unsupported_image_format")
    if claimed_format(content_type) not in (None, found):
        raise Unsupported(
            f"The image is declared as {media_type(content_type)[:100]!r} and is image/{found}. "
            "Correct the Content-Type.",
            code="content_type_mismatch",
        )
    # Above Pillow's own bound it would warn; reading the bound changes nothing.
    max_pixels = limits.max_pixels * (JPEG_FACTOR if found == "jpeg" else 1)
    max_pixels = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    return _READERS[found](data, max_pixels)


def _sniff(data: bytes) -> ImageFormat | None:
    if data.startswith(png.SIGNATURE):
        return "png"
    if data.startswith(jpeg.SIGNATURE):
        return "jpeg"
    if webp.is_webp(data):
        return "webp"
    return "bmp" if data.startswith(bmp.SIGNATURE) else None


def _what_else(data: bytes) -> str:
    brands = [data[8:12], *(data[start : start + 4] for start in range(16, min(64, len(data)), 4))]
    if data[4:8] == b"ftyp" and any(brand in _AVIF_BRANDS for brand in brands):
        return f"AVIF is not accepted; {HOW_TO_SEND['image/avif']}."
    if data[4:8] == b"ftyp" and any(brand in _HEIC_BRANDS for brand in brands):
        return f"HEIC is not accepted; {HOW_TO_SEND['image/heic']}."
    return "This is no PNG, JPEG, WebP or BMP image. Send one of those."
