"""The structure of a WebP file (RFC 9649)."""

import struct

from fend.errors import Invalid
from fend.images.formats.container import MAX_PARTS, Container, check_size
from fend.images.formats.tiff_tags import read_orientation

_ANIMATION_FLAG, _XMP_FLAG, _EXIF_FLAG = 0x02, 0x04, 0x08


def is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_webp(data: bytes, max_pixels: int) -> Container:
    """Size, orientation and number of frames of a WebP; an animation of one frame is a picture.

    Raises:
        Invalid: `image_truncated`, `image_corrupt` or `image_multi_frame`.
        TooLarge: `image_too_many_pixels`.
    """
    if len(data) < (25 if data[12:16] == b"VP8L" else 30):
        raise Invalid("The WebP ends early. Send the whole file.", code="image_truncated")
    height_px, width_px = _size(data)
    check_size(height_px, width_px, max_pixels)
    file_end = 8 + int.from_bytes(data[4:8], "little")
    if file_end > len(data):
        raise Invalid("The WebP ends early. Send the whole file.", code="image_truncated")

    flags = data[20] if data[12:16] == b"VP8X" else 0
    frames = 0
    metadata: dict[bytes, bytes] = {}
    position = 12
    for _ in range(MAX_PARTS):
        if position + 8 > file_end:
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        body_end = position + 8 + length
        frames += kind == b"ANMF"
        if (kind == b"EXIF" and flags & _EXIF_FLAG) or (kind == b"XMP " and flags & _XMP_FLAG):
            metadata.setdefault(kind, data[position + 8 : body_end])
        position = body_end + length % 2
    else:
        raise Invalid(
            f"The WebP has more than {MAX_PARTS} chunks. Save it again.", code="image_corrupt"
        )
    if flags & _ANIMATION_FLAG and frames > 1:
        raise Invalid("The WebP is an animation. Send one still picture.", code="image_multi_frame")
    return Container(
        format="webp",
        stream=data,
        size_px=(height_px, width_px),
        orientation=read_orientation(metadata.get(b"EXIF", b""), metadata.get(b"XMP ", b"")),
    )


def _size(data: bytes) -> tuple[int, int]:
    """(height, width) from the first chunk, of which there are three kinds."""
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        return int.from_bytes(data[27:30], "little") + 1, width
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return ((bits >> 14) & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    raise Invalid("The WebP does not begin with a picture. Save it again.", code="image_corrupt")
