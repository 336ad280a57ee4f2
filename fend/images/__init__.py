"""Untrusted image bytes to pixels, and pixels to PNG.

`decode` is the only door: limits and structure are checked on the bytes (`container` and the file
beside it for each format) before Pillow sees them; then pixels, polarity, padding.
"""

from fend.images.content_types import HOW_TO_SEND, claimed_format, media_type
from fend.images.decode import DecodedImage, decode
from fend.images.pixels import encode_png
from fend.images.spec import DEFAULT_LIMITS, DecodeLimits, InputSpec

__all__ = [
    "DEFAULT_LIMITS",
    "HOW_TO_SEND",
    "DecodeLimits",
    "DecodedImage",
    "InputSpec",
    "claimed_format",
    "decode",
    "encode_png",
    "media_type",
]
