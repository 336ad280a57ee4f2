"""The structure of a JPEG file (ITU-T T.81, annex B)."""

import re
import struct

from fend.errors import Invalid, Unsupported
from fend.images.formats.container import MAX_PARTS, Container, check_size
from fend.images.formats.tiff_tags import NUMBER_OF_IMAGES, read_orientation, read_tag

SIGNATURE = b"\xff\xd8\xff"

# Every scan of a progressive file costs a pass over all blocks, however short it is; encoders write
# about ten.
_MAX_SCANS = 50

# 0xFF in compressed data is followed by 0 or by a restart marker (D0 to D7); FF is fill.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_START, _END, _SCAN, _COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
_STANDALONE = (0x01, _START)
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE
# APP0 (JFIF) and APP14 (Adobe) say how colours are stored.
_DROPPED = (frozenset(range(0xE0, 0xF0)) | {_COMMENT}) - {_APP0, _APP14}


def read_jpeg(data: bytes, max_pixels: int) -> Container:
    """Reduce a JPEG to tables, frame header and scans; what follows its end marker is dropped.

    Raises:
        Invalid: `image_truncated`, `image_corrupt` or `image_multi_frame`.
        TooLarge: `image_too_many_pixels`.
        Unsupported: more than 50 scans.
    """
    kept = [data[:2]]
    size_px: tuple[int, int] | None = None
    orientation = pictures = 1
    gain_map = False
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
            check_size(*size_px, max_pixels)
        elif code == _APP1 and body.startswith(b"Exif\0\0"):
            orientation = read_orientation(body)
        elif code == _APP1 and b"hdrgm:Version=" in body:
            gain_map = True  # "Ultra HDR": the second picture only brightens the first
        elif code == _APP2 and body.startswith(b"MPF\0"):
            pictures = read_tag(body[4:], NUMBER_OF_IMAGES) or 1
        elif code == _SCAN:
            scans += 1
            first_scan = first_scan or marker.start()
            if scans > _MAX_SCANS:
                raise Unsupported(
                    f"The JPEG has more than {_MAX_SCANS} scans. Save it as a baseline JPEG.",
                    code="unsupported_image_format",
                )
        if not scans and code not in _DROPPED:
            kept.append(data[marker.start() : position])
    else:
        raise Invalid(
            f"The JPEG has more than {MAX_PARTS} segments. Save it again.", code="image_corrupt"
        )

    if size_px is None or not scans:
        raise Invalid("The JPEG holds no picture. Save it again.", code="image_corrupt")
    if pictures > 1 and not gain_map:
        raise Invalid(
            f"The JPEG holds {pictures} pictures. Send one picture a file.",
            code="image_multi_frame",
        )
    return Container(
        format="jpeg",
        stream=b"".join(kept) + data[first_scan:position],
        size_px=size_px,
        orientation=orientation,
    )
