"""The structure of a PNG file (PNG specification, third edition, W3C)."""

import struct
import zlib

from fend.errors import Invalid
from fend.images.formats.container import MAX_PARTS, Container, check_size
from fend.images.formats.tiff_tags import read_orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_GREY, _RGB, _PALETTE = 0, 2, 3
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")


def read_png(data: bytes, max_pixels: int) -> Container:
    """Reduce a PNG to header, palette, transparency and pixel data, checksums verified.

    Raises:
        Invalid: `image_truncated`, `image_corrupt` or `image_multi_frame`.
        TooLarge: `image_too_many_pixels`.
    """
    parts: dict[bytes, list[bytes]] = {kind: [] for kind in _KEPT}
    height_px = width_px = 0
    orientation = 1
    position = len(SIGNATURE)
    for _ in range(MAX_PARTS):
        if position + 12 > len(data):
            raise Invalid("The PNG ends early. Send the whole file.", code="image_truncated")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise Invalid("The PNG ends early. Send the whole file.", code="image_truncated")
        body = data[position + 8 : end - 4]
        if (kind == b"IHDR") != (not parts[b"IHDR"]) or (kind == b"IHDR" and length != 13):
            raise Invalid(
                "The PNG does not begin with exactly one header. Save it again.",
                code="image_corrupt",
            )
        if kind in _KEPT:
            if data[end - 4 : end] != _checksum(kind, body):
                raise Invalid(
                    "The PNG is damaged: a checksum is wrong. Send it again.", code="image_corrupt"
                )
            parts[kind].append(body)
        if kind == b"IHDR":
            width_px, height_px = struct.unpack_from(">II", body)
            check_size(height_px, width_px, max_pixels)
        elif kind == b"acTL":
            raise Invalid(
                "The PNG is an animation. Send one still picture.", code="image_multi_frame"
            )
        elif kind == b"eXIf":
            orientation = read_orientation(body)
        elif kind == b"IEND":
            break
        position = end
    else:
        raise Invalid(
            f"The PNG has more than {MAX_PARTS} chunks. Save it again.", code="image_corrupt"
        )

    header, pixel_data = parts[b"IHDR"][0], b"".join(parts[b"IDAT"])
    depth, colour_type = header[8:10]
    if depth not in (1, 2, 4, 8, 16):
        raise Invalid("The PNG's header is not valid. Save it again.", code="image_corrupt")
    if colour_type == _PALETTE and not parts[b"PLTE"]:
        raise Invalid("The PNG needs a palette and has none. Save it again.", code="image_corrupt")
    transparency = parts[b"tRNS"][0] if parts[b"tRNS"] else None
    kept = [(b"IHDR", header)]
    if colour_type == _PALETTE:
        kept.append((b"PLTE", parts[b"PLTE"][0]))
        if transparency is not None:
            kept.append((b"tRNS", transparency))
    # Where the zlib stream ends before the picture is full, Pillow leaves the rest black. Without
    # the stream's last byte, which a full picture does not need, it reports a truncated image.
    kept += [(b"IDAT", pixel_data[:-1]), (b"IEND", b"")]
    return Container(
        format="png",
        stream=SIGNATURE + b"".join(_chunk(kind, body) for kind, body in kept),
        size_px=(height_px, width_px),
        orientation=orientation,
        transparent_colour=_transparent_colour(transparency, depth, colour_type),
    )


def _transparent_colour(
    transparency: bytes | None, depth: int, colour_type: int
) -> tuple[int, ...] | None:
    """The transparent grey or RGB value, which the file gives in its own bit depth.

    Pillow stretches 1, 2 and 4 bit grey to 0..255, keeps 16 bit grey, and keeps the high byte of
    16 bit RGB. It does none of that to the transparent value, which would then match nothing.
    """
    if transparency is None or colour_type not in (_GREY, _RGB):
        return None
    samples = 1 if colour_type == _GREY else 3
    if len(transparency) < 2 * samples:
        raise Invalid(
            "The PNG's transparency chunk is too short. Save it again.", code="image_corrupt"
        )
    values = struct.unpack_from(f">{samples}H", transparency)
    if depth < 8:
        return tuple((value & (2**depth - 1)) * 255 // (2**depth - 1) for value in values)
    if depth == 8:
        return tuple(value & 0xFF for value in values)
    return values if colour_type == _GREY else tuple(value >> 8 for value in values)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + _checksum(kind, body)


def _checksum(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
