"""The structure of a JPEG file (ITU-T T.81, annex B)."""

import re
import struct

from fend.errors import Invalid, Unsupported
from fend.images.formats.container import MAX_PARTS, Container, check_size
from fend.images.formats.tiff_tags import MP_ENTRY, read_orientation, read_values

SIGNATURE = b"\xff\xd8\xff"

# Every scan of a progressive file costs a pass over all blocks, however short it is; encoders write
# about ten.
_MAX_SCANS = 50

# 0xFF in compressed data is followed by 0 or by a restart marker (D0 to D7); FF is fill.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_START, _END, _SCAN, _COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
_STANDALONE = (0x01, _START)
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_USUAL = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; others are lossless or arithmetic
_HIERARCHY, _LINES = 0xDE, b"\xff\xdc\0\4"
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE
# APP0 (JFIF) and APP14 (Adobe) say how colours are stored.
_DROPPED = (frozenset(range(0xE0, 0xF0)) | {_COMMENT}) - {_APP0, _APP14}
_XMP = b"http://ns.adobe.com/xap/1.0/\0"

_MULTI_VIEW = 0x02  # the upper byte of an MP type: panorama, disparity, multi-angle


def read_jpeg(data: bytes, max_pixels: int) -> Container:
    """Reduce a JPEG to tables, frame header and scans; what follows its end marker is dropped.

    A photo with previews or a gain map beside it is that photo; the views of a stereo camera or
    of a panorama are several pictures. EXIF in several segments is one block, as Pillow reads it.

    Raises:
        Invalid: `image_truncated`, `image_corrupt` or `image_multi_frame`.
        TooLarge: `image_too_many_pixels`.
        Unsupported: more than 50 scans, or a hierarchical file, or its height comes last.
    """
    kept = [data[:2]]
    size_px: tuple[int, int] | None = None
    exif: list[bytes] = []
    xmp = index = b""
    rare = False
    scans = first_scan = 0
    position = 2
    for _ in range(MAX_PARTS):
        marker = _MARKER.search(data, position)
        if marker is None:
            raise Invalid("The JPEG ends early. Send the whole file.", code="image_truncated")
        code, position = data[marker.end() - 1], marker.end()
        if code == _END:
            break
        if code in _STANDALONE:
            continue
        segment_end = position + int.from_bytes(data[position : position + 2], "big")
        if segment_end > len(data) or position + 2 > len(data):
            raise Invalid("The JPEG ends early. Send the whole file.", code="image_truncated")
        body = data[position + 2 : segment_end]
        position = max(segment_end, position + 2)

        if code in _FRAME_HEADERS:
            if size_px is not None or len(body) < 6:
                raise Invalid(
                    "The JPEG's frame header is damaged. Save it again.", code="image_corrupt"
                )
            size_px = struct.unpack_from(">HH", body, 1)
            if size_px[0] == 0 and _LINES in data[position:]:
                raise _not_read("gives its height after the pixels")
            check_size(*size_px, max_pixels)
            rare = code not in _USUAL
        elif code == _HIERARCHY:
            raise _not_read("is hierarchical")
        elif code == _APP1 and not scans and body.startswith(b"Exif\0\0"):
            exif.append(body[6:])
        elif code == _APP1 and not scans and body.startswith(_XMP):
            xmp = body.removeprefix(_XMP)
        elif code == _APP2 and not scans and body.startswith(b"MPF\0"):
            index = body[4:]
        elif code == _SCAN:
            scans += 1
            first_scan = first_scan or marker.start()
            if scans > _MAX_SCANS:
                raise _not_read(f"has more than {_MAX_SCANS} scans")
        if not scans and code not in _DROPPED:
            kept.append(data[marker.start() : position])
    else:
        raise Invalid(
            f"The JPEG has more than {MAX_PARTS} segments. Save it again.", code="image_corrupt"
        )

    if size_px is None or not scans:
        raise Invalid("The JPEG holds no picture. Save it again.", code="image_corrupt")
    if (views := _views(index)) > 1:
        raise Invalid(
            f"The JPEG holds {views} pictures. Send one picture a file.", code="image_multi_frame"
        )
    return Container(
        format="jpeg",
        stream=b"".join(kept) + data[first_scan:position],
        size_px=size_px,
        orientation=read_orientation(b"".join(exif), xmp),
        rare=rare,
    )


def _views(index: bytes) -> int:
    """How many pictures a multi-picture index lists when they are views of one scene, else 1."""
    order, _, entries = read_values(index, MP_ENTRY) or ("<", 0, b"")
    whole = entries[: len(entries) // 16 * 16]
    attributes = [number for (number,) in struct.iter_unpack(f"{order}I12x", whole)]
    several = any(number >> 16 & 0xFF == _MULTI_VIEW for number in attributes)
    return len(attributes) if several else 1


def _not_read(how: str) -> Unsupported:
    return Unsupported(
        f"The JPEG {how}, which is not supported. Save it as a baseline JPEG.",
        code="unsupported_image_format",
    )
