"""A container to upright, scaled samples, and pixels to PNG: all that Pillow does is here."""

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import torch
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from fend.errors import FendError, Invalid, Unsupported
from fend.images.formats.container import Container, ImageFormat
from fend.images.spec import InputSpec

# Opened by themselves: `Image.open` would hide why one of them refused, and name an address.
_PLUGINS: dict[ImageFormat, type[ImageFile.ImageFile]] = {
    "bmp": BmpImagePlugin.BmpImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
}

# What Pillow raises on damaged files.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# How its messages begin where the file may be whole, and of a kind that it does not read.
_NOT_READ = ("Unsupported ", "cannot handle ", "invalid palette size")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pixels per target pixel that are left for the filter after cheap reduction by whole factors;
# above 3 the result is close to filtering the full picture (Pillow's handbook, Image.resize).
_REDUCING_GAP = 4


def load_upright(container: Container, spec: InputSpec) -> Image.Image:
    """Decode to mode L, LA, RGB, RGBA, or F in 0..65535 for 16-bit grey, and undo the rotation.

    Colour profiles are ignored. 16-bit colour keeps its high byte.

    Raises:
        Invalid: `image_truncated` or `image_corrupt`.
        Unsupported: a kind that Pillow does not read.
    """
    # A process that sets it would get the rest of a damaged file in black or grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = _PLUGINS[container.format](io.BytesIO(container.stream))
        if image.size != container.size_px[::-1]:
            raise ValueError(f"two sizes: {container.size_px[::-1]} and {image.size}")
        # A JPEG decoder can scale by 1/2 to 1/8 on the way, in time and memory too.
        longest = _REDUCING_GAP * max(spec.height_px, spec.width_px, spec.crop_from_px or 0)
        if container.format == "jpeg" and not container.rare:
            image.draft(None, (longest, longest))
        image.load()
        plain = _plain_mode(image, container.transparent_colour)
    except _PILLOW_ERRORS as error:
        raise _told(error, container) from error
    if container.orientation in _UPRIGHT:
        return plain.transpose(_UPRIGHT[container.orientation])
    return plain


def _told(error: Exception, container: Container) -> FendError:
    """Pillow's error, as what it means for who sent the file."""
    name, reason = container.format.upper(), str(error)
    if reason.startswith("image file is truncated"):
        return Invalid(f"The {name} ends early. Send the whole file.", code="image_truncated")
    if container.rare or reason.startswith(_NOT_READ):
        return Unsupported(
            f"This kind of {name} is not supported ({reason}). Save it as PNG.",
            code="unsupported_image_format",
        )
    return Invalid(f"The {name} cannot be decoded ({reason}). Save it again.", code="image_corrupt")


def _plain_mode(image: Image.Image, transparent: tuple[int, ...] | None) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow would clip it at 255
        samples = np.asarray(image)
        if transparent is None:
            return Image.fromarray(samples.astype(np.float32))
        opaque = samples != transparent[0]
        grey = Image.fromarray(((samples.astype(np.float32) + 128) // 257).astype(np.uint8))
        return _with_alpha(grey, opaque)
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):  # P, CMYK
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if transparent is None:
        return image
    samples = np.asarray(image).reshape(*image.size[::-1], -1)
    opaque = samples[..., 0] != transparent[0]
    for channel in range(1, len(transparent)):  # many times faster than `any` over the last axis
        opaque |= samples[..., channel] != transparent[channel]
    return _with_alpha(image, opaque)


def _with_alpha(image: Image.Image, opaque: npt.NDArray[np.bool_]) -> Image.Image:
    alpha = Image.fromarray(opaque.astype(np.uint8) * 255)
    mode = "LA" if image.mode == "L" else "RGBA"
    return Image.merge(mode, [*image.split(), alpha])


def scale(image: Image.Image, spec: InputSpec) -> Image.Image:
    """To the target size, or within it for `fit`; an image of that size is returned untouched.

    Antialiased: reduction by whole factors, then Pillow's filter, whose support grows with the
    factor. The bilinear one never overshoots and is smooth where small pictures are enlarged,
    neither of which holds for all of box, bicubic and Lanczos. Alpha is taken into account.
    """
    width, height = spec.width_px, spec.height_px
    if image.size == (width, height):
        return image
    box = (0.0, 0.0, float(image.width), float(image.height))
    if spec.resize == "fit":
        factor = min(width / image.width, height / image.height)
        width = min(width, max(1, round(image.width * factor)))
        height = min(height, max(1, round(image.height * factor)))
        if image.size == (width, height):
            return image
    elif spec.resize == "crop" or spec.crop_from_px is not None:
        box = _centre(image, spec)
    scaled = image.resize(
        (width, height),
        Image.Resampling[spec.interpolation.upper()],
        box=box,
        reducing_gap=float(_REDUCING_GAP),
    )
    if scaled.mode != "F" or spec.interpolation in ("nearest", "box", "bilinear"):
        return scaled
    return Image.fromarray(np.asarray(scaled).clip(0, 65535))  # the others overshoot


def _centre(image: Image.Image, spec: InputSpec) -> tuple[float, float, float, float]:
    """What of `image` is scaled: what scaling all of it and then cutting would leave, so that a
    picture of one row costs no more than another."""
    if spec.resize == "stretch":
        whole = [spec.crop_from_px or 0] * 2
    elif spec.crop_from_px is not None:
        shorter = min(image.size)
        whole = [spec.crop_from_px * side // shorter for side in image.size]
    else:
        factor = max(spec.width_px / image.width, spec.height_px / image.height)
        sizes = zip(image.size, (spec.width_px, spec.height_px), strict=True)
        whole = [max(kept, int(side * factor)) for side, kept in sizes]
    spans = []
    for side, scaled, kept in zip(image.size, whole, (spec.width_px, spec.height_px), strict=True):
        start = round((scaled - kept) / 2)  # a whole pixel, as torchvision cuts
        spans.append((start * side / scaled, min((start + kept) * side / scaled, side)))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def to_samples(
    image: Image.Image, channels: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None, np.float32]:
    """(H,W,channels) samples, (H,W) alpha in [0,1] or None, and the sample that is white.

    Samples are whole numbers unless the image was scaled in 16 bit. Grey is BT.601 luma.
    """
    if channels == 1 and image.mode in ("RGB", "RGBA"):
        image = image.convert("L" if image.mode == "RGB" else "LA")
    samples = np.asarray(image).astype(np.float32).reshape(image.height, image.width, -1)
    alpha = None
    if image.mode in ("LA", "RGBA"):
        samples, alpha = samples[..., :-1], samples[..., -1] / np.float32(255)
    if samples.shape[-1] != channels:
        samples = np.repeat(samples, channels, axis=-1)
    return samples, alpha, np.float32(65535 if image.mode == "F" else 255)


def encode_png(pixels: torch.Tensor) -> bytes:
    """Write (C,H,W) pixels in [0,1], C 1 or 3, as an 8-bit PNG, rounded to the nearest level.

    Values that `decode` gave come back exactly.

    Raises:
        ValueError: wrong shape, not a number, or outside [0,1] by half a level or more.
    """
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"expected pixels of shape (1 or 3, H, W), got {tuple(pixels.shape)}")
    levels = (pixels.detach().to("cpu", torch.float32) * 255).round()
    if not bool(((levels >= 0) & (levels <= 255)).all()):
        raise ValueError("expected pixels in [0, 1]; clamp them first")
    samples = levels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
