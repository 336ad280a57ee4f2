"""Makes image files for tests, and what Pillow cannot write by hand."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fend.images import InputSpec

Samples = npt.NDArray[Any]

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
         (0, 1, 1, 2))  # fmt: skip
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6

HEIC = bytes.fromhex("00000018 66747970 68656963 00000000 6d696631 68656963") + bytes(40)
GREY28 = InputSpec(channels=1, height_px=28, width_px=28)
RGB28 = GREY28.model_copy(update={"channels": 3})
DIGITS28 = GREY28.model_copy(update={"polarity": "light_on_dark"})


def saved(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=file_format, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def spec_of(size: tuple[int, int], **changes: object) -> InputSpec:
    """What takes grey pictures of (width, height) as they are."""
    return GREY28.model_copy(update={"width_px": size[0], "height_px": size[1], **changes})


def gradient(mode: str = "L", size: tuple[int, int] = (28, 28)) -> Image.Image:
    """Light at the bottom right; its red and blue differ."""
    ramp = np.add.outer(np.arange(size[1]), np.arange(size[0])).astype(np.float64)
    ramp = (ramp / max(ramp.max(), 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp, ramp // 2, ramp // 4], axis=-1))
    if mode == "I;16":
        return Image.fromarray(ramp.astype(np.uint16) * 257)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(255 - ramp // 2))
        return image
    if mode == "P":
        return image.quantize(64)
    return Image.fromarray(ramp) if mode == "L" else image.convert(mode)


def seven(ink: int, paper: int, size: tuple[int, int] = (28, 28)) -> Image.Image:
    image = Image.new("L", size, paper)
    width, height = size
    line = [(0.3, 0.25), (0.7, 0.25), (0.45, 0.8)]
    points = [(x * width, y * height) for x, y in line]
    ImageDraw.Draw(image).line(points, fill=ink, width=max(2, min(size) // 12))
    return image


def png(
    samples: Samples, depth: int, colour: int, *, interlaced: bool = False, before: bytes = b""
) -> bytes:
    """A PNG by hand, for what Pillow cannot write; (H,W) or (H,W,C) samples of `depth` bits."""
    rows = png_rows(samples, depth, interlaced=interlaced)
    return png_of(*samples.shape[1::-1], zlib.compress(rows), depth, colour, interlaced, before)


def png_rows(samples: Samples, depth: int, *, interlaced: bool = False) -> bytes:
    rows = b""
    for column, row, column_step, row_step in ADAM7 if interlaced else ((0, 0, 1, 1),):
        part = samples[row::row_step, column::column_step]
        rows += b"".join(b"\0" + packed(line, depth) for line in part if line.size)
    return rows


def png_of(
    width: int, height: int, pixels: bytes, depth: int = 8, colour: int = GREY,
    interlaced: bool = False, before: bytes = b"", after: bytes = b"",
) -> bytes:  # fmt: skip
    """A PNG of these compressed rows, with chunks before and after them."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    body = chunk(b"IDAT", pixels) + after + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + before + body


def apng(announced: int, before: int, after: int, *, late: bool = False, times: int = 1) -> bytes:
    """The gradient with so many frame headers before its pixels and frames after them."""
    size = (28, 28)
    control = chunk(b"acTL", struct.pack(">II", announced, 0)) * times
    pixels = zlib.compress(png_rows(np.asarray(gradient()), 8))
    other = zlib.compress(bytes(28 * 29))
    frames = [b"", b""]
    sequence = 0
    for place, count in enumerate((before, after)):
        for _ in range(count):
            header = struct.pack(">IIIIIHHBB", sequence, *size, 0, 0, 1, 10, 0, 0)
            frames[place] += chunk(b"fcTL", header)
            sequence += 1
            if place:
                frames[1] += chunk(b"fdAT", struct.pack(">I", sequence) + other)
                sequence += 1
    early, end = (b"", control) if late else (control, b"")
    return png_of(*size, pixels, before=early + frames[0], after=end + frames[1])


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP by hand."""
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def vp8x(size: tuple[int, int], flags: int) -> tuple[bytes, bytes]:
    return b"VP8X", bytes((flags, 0, 0, 0)) + u24(size[0] - 1) + u24(size[1] - 1)


def u24(number: int) -> bytes:
    return number.to_bytes(3, "little")


def animated_webp(frames: int, at: tuple[int, int] = (0, 0)) -> bytes:
    """The gradient as so many frames of a container that could hold more, at even offsets."""
    picture = saved(gradient("RGB"), "WEBP", lossless=True)[12:]
    size = (28 + at[0], 28 + at[1])
    place = u24(at[0] // 2) + u24(at[1] // 2) + u24(27) * 2 + u24(100) + b"\0"
    return riff(vp8x(size, 0x12), (b"ANIM", bytes(6)), *[(b"ANMF", place + picture)] * frames)


def mpf_jpeg(kinds: list[int], order: str = "<", primary: bytes = b"") -> bytes:
    """A JPEG with an index of pictures of these types (CIPA DC-007), itself the first of them."""
    first = primary or saved(gradient("RGB"), "JPEG")
    others = [saved(Image.new("RGB", (28, 28), "red"), "JPEG")] * (len(kinds) - 1)
    start = 8 + 2 + 3 * 12 + 4
    segment = 2 + 4 + start + 16 * len(kinds)
    total, place = 2 + segment + len(first), 2 + 2 + 2 + 4
    entries = struct.pack(f"{order}IIIHH", kinds[0], total, 0, 0, 0)
    for kind, other in zip(kinds[1:], others, strict=True):
        entries += struct.pack(f"{order}IIIHH", kind, len(other), total - place, 0, 0)
        total += len(other)
    tags = struct.pack(f"{order}HHI4s", 0xB000, 7, 4, b"0100")
    tags += struct.pack(f"{order}HHII", 0xB001, 4, 1, len(kinds))
    tags += struct.pack(f"{order}HHII", 0xB002, 7, len(entries), start)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 3)
    body = b"MPF\0" + head + tags + bytes(4) + entries
    return jpeg_with(first, 0xE2, body) + b"".join(others)


def packed(line: Samples, depth: int) -> bytes:
    if depth == 16:
        return line.astype(">u2").tobytes()
    bits = np.unpackbits(line.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - depth :]
    return np.packbits(bits).tobytes()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def jpeg_with(data: bytes, marker: int, body: bytes) -> bytes:
    """`data` with one more segment at its beginning."""
    return data[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + data[2:]
