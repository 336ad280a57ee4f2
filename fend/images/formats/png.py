"""The structure of a PNG file (PNG specification, third edition, W3C)."""

import struct
import zlib

from fend.errors import Invalid, Unsupported
from fend.images.formats.container import MAX_PARTS, Container, check_size
from fend.images.formats.tiff_tags import read_orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_GREY, _RGB, _PALETTE = 0, 2, 3
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, 4: 2, 6: 4}
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_EXIF_TEXT, _XMP_TEXT = b"Raw profile type exif", b"XML:com.adobe.xmp"  # ImageMagick's, Adobe's
_MAX_TEXT_BYTES = 2**20

# Of an interlaced picture: the first column and row of each pass, and their steps.
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip


def read_png(data: bytes, max_pixels: int) -> Container:
    """Reduce a PNG to header, palette, transparency and pixel data, checksums verified.

    Raises:
        Invalid: `image_truncated`, `image_corrupt` or `image_multi_frame`.
        TooLarge: `image_too_many_pixels`.
        Unsupported: Apple's variant of the format.
    """
    parts: dict[bytes, list[bytes]] = {kind: [] for kind in _KEPT}
    height_px = width_px = 0
    metadata: dict[bytes, bytes] = {}
    animations: list[int] = []  # how many frames each announcement before the pixels promises
    frames = own_frames = 0
    position = len(SIGNATURE)
    for _ in range(MAX_PARTS):
        if position + 12 > len(data):
            raise Invalid("The PNG ends early. Send the whole file.", code="image_truncated")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise Invalid("The PNG ends early. Send the whole file.", code="image_truncated")
        body = data[position + 8 : end - 4]
        if kind == b"CgBI":
            raise Unsupported(
                "This is a PNG for iOS apps only. Save it as a plain PNG.",
                code="unsupported_image_format",
            )
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
        elif kind == b"acTL" and not parts[b"IDAT"]:
            animations.append(int.from_bytes(body[:4]))
        elif kind == b"fcTL":
            frames += 1
            own_frames += bool(parts[b"IDAT"])
        elif kind == b"eXIf":
            metadata[kind] = body
        elif kind in _TEXTS and (keyword := body.partition(b"\0")[0]) in (_EXIF_TEXT, _XMP_TEXT):
            metadata[keyword] = kind + body.partition(b"\0")[2]
        elif kind == b"IEND":
            break
        position = end
    else:
        raise Invalid(
            f"The PNG has more than {MAX_PARTS} chunks. Save it again.", code="image_corrupt"
        )

    # One announcement, or Pillow and browsers show the still picture, which is a frame of the
    # animation where a frame header precedes it.
    if len(animations) == 1 and min(animations[0], frames) + (own_frames == frames > 0) > 1:
        raise Invalid("The PNG is an animation. Send one still picture.", code="image_multi_frame")
    header, pixel_data = parts[b"IHDR"][0], b"".join(parts[b"IDAT"])
    depth, colour_type, *_, interlaced = header[8:]
    if depth not in (1, 2, 4, 8, 16) or colour_type not in _CHANNELS:
        raise Invalid("The PNG's header is not valid. Save it again.", code="image_corrupt")
    if colour_type == _PALETTE and not parts[b"PLTE"]:
        raise Invalid("The PNG needs a palette and has none. Save it again.", code="image_corrupt")
    _check_length(
        pixel_data, _filtered_bytes(height_px, width_px, depth * _CHANNELS[colour_type], interlaced)
    )
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
        orientation=_orientation(metadata),
        transparent_colour=_transparent_colour(transparency, depth, colour_type),
    )


def _filtered_bytes(height_px: int, width_px: int, bits_a_pixel: int, interlaced: int) -> int:
    """How many bytes the pixel data must inflate to: each row has a byte for its filter."""
    total = 0
    for column, row, column_step, row_step in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns = len(range(column, width_px, column_step))
        rows = len(range(row, height_px, row_step)) if columns else 0
        total += rows * (1 + (columns * bits_a_pixel + 7) // 8)
    return total


def _check_length(pixel_data: bytes, wanted_bytes: int) -> None:
    """Refuse pixel data that ends before the picture is full: Pillow would leave the rest black."""
    inflater = zlib.decompressobj()
    try:
        for start in range(0, len(pixel_data), 2**16):
            piece = pixel_data[start : start + 2**16]
            while wanted_bytes > 0:
                inflated = len(inflater.decompress(piece, min(wanted_bytes, 2**18)))
                wanted_bytes -= inflated
                piece = inflater.unconsumed_tail
                if not inflated and not piece:
                    break
            if wanted_bytes <= 0:
                return
            if inflater.eof:
                break
    except zlib.error as error:
        raise Invalid(
            f"The PNG's pixel data is damaged ({error}). Save it again.", code="image_corrupt"
        ) from error
    raise Invalid("The PNG ends early. Send the whole file.", code="image_truncated")


def _orientation(metadata: dict[bytes, bytes]) -> int:
    exif = metadata.get(b"eXIf")
    if exif is None and _EXIF_TEXT in metadata:
        lines = _text(metadata[_EXIF_TEXT]).split(b"\n")[3:]  # after a name and a length
        try:
            exif = bytes.fromhex(b"".join(lines).decode("latin-1"))
        except ValueError:
            exif = None
    return read_orientation(exif or b"", _text(metadata.get(_XMP_TEXT, b"")))


def _text(chunk: bytes) -> bytes:
    """The text of a text chunk, which begins with its type and has lost its keyword."""
    kind, text = chunk[:4], chunk[4:]
    packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    if kind == b"zTXt":
        text = text[1:]  # the method
    elif kind == b"iTXt":
        text = text[2:].split(b"\0", 2)[-1]  # the method, the language, the translated keyword
    if not packed:
        return text
    try:
        return zlib.decompressobj().decompress(text, _MAX_TEXT_BYTES)
    except zlib.error:
        return b""


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
