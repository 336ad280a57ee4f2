"""The structure of a PNG file (PNG specification, third edition, W3C)."""

import struct
import zlib

from fend.images.errors import ImageCorrupt, ImageMultiFrame, ImageTruncated
from fend.images.formats.container import MAX_PARTS, Container, check_size
from fend.images.formats.tiff_tags import read_orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_SAMPLES = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGB_ALPHA: 4}
_DEPTHS = {
    _GREY: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (1, 2, 4, 8),
    _GREY_ALPHA: (8, 16),
    _RGB_ALPHA: (8, 16),
}
# First column and row, and steps, of each pass over the picture.
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")


def read_png(data: bytes, max_pixels: int) -> Container:
    """Reduce a PNG to header, palette, transparency and pixel data, checksums verified.

    Raises:
        ImageTooManyPixels, ImageTruncated, ImageCorrupt, ImageMultiFrame.
    """
    parts: dict[bytes, list[bytes]] = {kind: [] for kind in _KEPT}
    height_px = width_px = 0
    orientation = 1
    position = len(SIGNATURE)
    for _ in range(MAX_PARTS):
        if position + 12 > len(data):
            raise ImageTruncated("The PNG ends early. Send the whole file.")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise ImageTruncated("The PNG ends early. Send the whole file.")
        body = data[position + 8 : end - 4]
        if (kind == b"IHDR") != (not parts[b"IHDR"]) or (kind == b"IHDR" and length != 13):
            raise ImageCorrupt("The PNG does not begin with exactly one header. Save it again.")
        if kind in _KEPT:
            if data[end - 4 : end] != _checksum(kind, body):
                raise ImageCorrupt("The PNG is damaged: a checksum is wrong. Send it again.")
            parts[kind].append(body)
        if kind == b"IHDR":
            width_px, height_px = struct.unpack_from(">II", body)
            check_size(height_px, width_px, max_pixels)
        elif kind == b"acTL":
            raise ImageMultiFrame("The PNG is an animation. Send one still picture.")
        elif kind == b"eXIf":
            orientation = read_orientation(body)
        elif kind == b"IEND":
            break
        position = end
    else:
        raise ImageCorrupt(f"The PNG has more than {MAX_PARTS} chunks. Save it again.")

    header, pixel_data = parts[b"IHDR"][0], b"".join(parts[b"IDAT"])
    depth, colour_type = header[8:10]
    if depth not in _DEPTHS.get(colour_type, ()) or header[12] > 1:
        raise ImageCorrupt("The PNG's header is not valid. Save it again.")
    if colour_type == _PALETTE and not parts[b"PLTE"]:
        raise ImageCorrupt("The PNG needs a palette and has none. Save it again.")
    _check_complete(header, pixel_data)
    transparency = parts[b"tRNS"][0] if parts[b"tRNS"] else None
    kept = [(b"IHDR", header)]
    if colour_type == _PALETTE:
        kept.append((b"PLTE", parts[b"PLTE"][0]))
        if transparency is not None:
            kept.append((b"tRNS", transparency))
    kept += [(b"IDAT", pixel_data), (b"IEND", b"")]
    return Container(
        format="png",
        stream=SIGNATURE + b"".join(_chunk(kind, body) for kind, body in kept),
        size_px=(height_px, width_px),
        orientation=orientation,
        transparent_colour=_transparent_colour(transparency, depth, colour_type),
    )


def _check_complete(header: bytes, pixel_data: bytes) -> None:
    """Inflate and count; where the data ends early, Pillow would leave the rest black."""
    width_px, height_px, depth, colour_type, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits_per_pixel = depth * _SAMPLES[colour_type]
    missing_bytes = 0
    for column, row, column_step, row_step in _ADAM7 if interlaced else _WHOLE:
        columns = -(-(width_px - column) // column_step)
        rows = -(-(height_px - row) // row_step)
        if columns > 0 and rows > 0:
            missing_bytes += rows * (1 + -(-columns * bits_per_pixel // 8))
    inflate = zlib.decompressobj()
    try:
        for start in range(0, len(pixel_data), 4096):  # at most 4 MB out for each
            missing_bytes -= len(inflate.decompress(pixel_data[start : start + 4096]))
            if missing_bytes <= 0:
                return
    except zlib.error as error:
        raise ImageCorrupt(f"The PNG cannot be inflated ({error}). Save it again.") from error
    raise ImageTruncated("The PNG's pixels end early. Send the whole file.")


def _transparent_colour(
    transparency: bytes | None, depth: int, colour_type: int
) -> tuple[int, ...] | None:
    """The transparent grey or RGB value, which the file gives in its own bit depth.

    Pillow stretches 1, 2 and 4 bit grey to 0..255, keeps 16 bit grey, and keeps the high byte of
    16 bit RGB. It does none of that to the transparent value, which would then match nothing.
    """
    if transparency is None or colour_type not in (_GREY, _RGB):
        return None
    samples = _SAMPLES[colour_type]
    if len(transparency) < 2 * samples:
        raise ImageCorrupt("The PNG's transparency chunk is too short. Save it again.")
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
