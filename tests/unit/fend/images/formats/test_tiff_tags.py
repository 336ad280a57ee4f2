"""Orientation in EXIF and XMP, wherever and however often it is written: as Pillow has it."""

import io
import struct
import warnings
import zlib
from contextlib import suppress

import image_files
import numpy as np
import pytest
from image_files import chunk, saved
from PIL import Image, ImageOps

from fend.images import decode

HEAD = b"Exif\0\0"
SHORT, XMP_HEAD = 3, b"http://ns.adobe.com/xap/1.0/\0"
XMP_6 = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
XMP_8 = b"<x:xmpmeta><tiff:Orientation>8</tiff:Orientation></x:xmpmeta>"
PICTURE = image_files.gradient("RGB", (32, 16))


def tiff(*entries: tuple[int, str, list[float]], order: str = "<", tag: int = 0x0112) -> bytes:
    """An EXIF block with `tag` once for each (TIFF type, format of one value, values)."""
    table, rest = b"", b""
    start = 8 + 2 + 12 * len(entries) + 4
    for kind, form, values in entries:
        data = b"".join(struct.pack(order + form, value) for value in values)
        count = len(data) if kind in (2, 7) else len(values) // (2 if kind in (5, 10) else 1)
        table += struct.pack(f"{order}HHI", tag, kind, count)
        if len(data) <= 4:
            table += data.ljust(4, b"\0")
        else:
            table += struct.pack(f"{order}I", start + len(rest))
            rest += data
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}IH", 8, len(entries)) + table + bytes(4) + rest


def short(orientation: int, order: str = "<") -> bytes:
    return tiff((SHORT, "H", [orientation]), order=order)


BLOCKS = {
    **{f"little-endian {number}": short(number) for number in range(1, 9)},
    **{f"big-endian {number}": short(number, ">") for number in range(1, 9)},
    **{f"out of range, {number}": short(number) for number in (0, 9, 77, 65535)},
    "a byte": tiff((1, "B", [6])),
    "text": tiff((2, "B", b"6")),
    "long": tiff((4, "I", [6])),
    "rational": tiff((5, "I", [12, 2])),
    "rational without a denominator": tiff((5, "I", [6, 0])),
    "signed byte": tiff((6, "b", [6])),
    "undefined": tiff((7, "B", [6])),
    "signed short": tiff((8, "h", [6])),
    "negative": tiff((8, "h", [-6])),
    "signed long, big-endian": tiff((9, "i", [6]), order=">"),
    "signed rational": tiff((10, "i", [-6, -1])),
    "float": tiff((11, "f", [6])),
    "half": tiff((11, "f", [5.5])),
    "not a number": tiff((11, "f", [float("nan")])),
    "double": tiff((12, "d", [6])),
    "unknown type": tiff((99, "H", [6])),
    "unknown type, then short": tiff((99, "H", [6]), (SHORT, "H", [8])),
    "twice": tiff((SHORT, "H", [6]), (SHORT, "H", [3])),
    "twice, the first says nothing": tiff((SHORT, "H", [1]), (SHORT, "H", [3])),
    "three values": tiff((SHORT, "H", [6, 3, 1])),
    "no value": tiff((SHORT, "H", [])),
    "value outside the block": short(6)[:-16] + struct.pack("<HHII", 0x0112, 3, 9, 9999) + bytes(4),
    "cut after the value": short(6)[:-4],
    "cut in the value": short(6)[:-6],
    "another tag": tiff((SHORT, "H", [6]), tag=0x0113),
    "prefix twice": HEAD + short(6),
    "empty": b"",
    "head alone": b"II*\0",
    "directory outside": b"II*\0\xff\xff\xff\xff",
    "no TIFF": b"\0" * 90,
}


def as_pillow(data: bytes) -> np.ndarray:
    """(H,W) levels of the picture as Pillow turns it; it raises on some blocks and turns none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data))
        image.load()
        with suppress(SyntaxError, IndexError, struct.error, ZeroDivisionError, ValueError):
            image = ImageOps.exif_transpose(image)
    return np.asarray(image.convert("L"))


def assert_as_pillow(data: bytes, turned: bool | None = None) -> None:
    expected = as_pillow(data)
    decoded = decode(data, image_files.spec_of(expected.shape[::-1]))
    assert decoded.source_size_px == expected.shape
    assert np.abs(decoded.pixels[0].numpy() * 255 - expected).max() < 1.01  # a level
    if turned is not None:
        assert (expected.shape == (32, 16)) == turned


@pytest.mark.parametrize("name", BLOCKS)
def test_exif_is_read_as_pillow_reads_it(name):
    block = BLOCKS[name]

    assert_as_pillow(image_files.jpeg_with(saved(PICTURE, "JPEG"), 0xE1, HEAD + block))
    header, rest = saved(PICTURE, "PNG")[:33], saved(PICTURE, "PNG")[33:]
    assert_as_pillow(header + chunk(b"eXIf", block) + rest)
    webp = saved(PICTURE, "WEBP", lossless=True)[12:]
    still = webp[:4], webp[8 : 8 + int.from_bytes(webp[4:8], "little")]
    assert_as_pillow(image_files.riff(image_files.vp8x(PICTURE.size, 8), still, (b"EXIF", block)))


def jpeg(*segments: bytes) -> bytes:
    data = saved(PICTURE, "JPEG")
    for segment in reversed(segments):
        data = image_files.jpeg_with(data, 0xE1, segment)
    return data


@pytest.mark.parametrize(
    ("segments", "turned"),
    [
        ([HEAD + short(6), HEAD + short(1)], True),
        ([HEAD + short(1), HEAD + short(6)], False),
        ([HEAD, HEAD + short(6)], True),
        ([HEAD + short(6)[:15], HEAD + short(6)[15:]], True),
        ([HEAD + short(6), XMP_HEAD + b"<x/>"], True),
        ([XMP_HEAD + XMP_6], True),
        ([XMP_HEAD + XMP_8], True),
        ([XMP_HEAD + XMP_6, XMP_HEAD + b"<x/>"], False),
        ([HEAD + short(1), XMP_HEAD + XMP_6], False),
        ([XMP_HEAD + XMP_6, HEAD + tiff((SHORT, "H", [6]), tag=0x0113)], True),
        ([HEAD, XMP_HEAD + XMP_6], True),
        ([XMP_HEAD + XMP_6.replace(b"6", b"0")], False),
    ],
)
def test_jpeg_metadata_in_several_parts(segments, turned):
    assert_as_pillow(jpeg(*segments), turned)


PROFILE = f"\nexif\n{len(HEAD + short(6)):8}\n{(HEAD + short(6)).hex()}\n".encode()


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    ("chunks", "turned"),
    [
        ([chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP_6)], True),
        ([chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP_6))], True),
        ([chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP_6)[:9])], False),
        ([chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP_6), chunk(b"eXIf", short(1))], False),
        ([chunk(b"eXIf", short(6)), chunk(b"eXIf", short(1))], False),
        ([chunk(b"eXIf", b"")], False),
        ([chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(PROFILE))], True),
        ([chunk(b"tEXt", b"Raw profile type exif\0" + PROFILE)], True),
        ([chunk(b"tEXt", b"Raw profile type exif\0" + PROFILE), chunk(b"eXIf", short(1))], False),
        ([chunk(b"tEXt", b"Raw profile type exif\0\nexif\n9\nno digits\n")], False),
    ],
)
def test_png_metadata_in_other_places(chunks, turned, place):
    data = saved(PICTURE, "PNG")
    at = 33 if place == "before" else len(data) - 12

    assert_as_pillow(data[:at] + b"".join(chunks) + data[at:], turned)


@pytest.mark.parametrize(
    ("flags", "chunks", "turned"),
    [
        (0x08, [(b"EXIF", short(6)), (b"EXIF", short(1))], True),
        (0x00, [(b"EXIF", short(6))], False),
        (0x04, [(b"XMP ", XMP_6)], True),
        (0x00, [(b"XMP ", XMP_6)], False),
        (0x0C, [(b"EXIF", short(1)), (b"XMP ", XMP_6)], False),
        (0x0C, [(b"EXIF", b""), (b"XMP ", XMP_8)], True),
    ],
)
def test_webp_metadata_counts_where_it_is_announced(flags, chunks, turned):
    webp = saved(PICTURE, "WEBP", lossless=True)[12:]
    still = webp[:4], webp[8 : 8 + int.from_bytes(webp[4:8], "little")]

    assert_as_pillow(
        image_files.riff(image_files.vp8x(PICTURE.size, flags), still, *chunks), turned
    )
