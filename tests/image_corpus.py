"""A corpus of image files, made when it is asked for: a digit in every way of writing it, odd ones,
and what must not be taken for a picture."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from image_files import (
    GREY,
    GREY_ALPHA,
    HEIC,
    RGB,
    RGB_ALPHA,
    Samples,
    chunk,
    exif,
    jpeg_with,
    mpf_jpeg,
    png,
    png_of,
    saved,
)  # fmt: skip
from PIL import Image, ImageCms

HTML = b"<html><script>alert(document.domain)</script></html>"
SIDE_BYTES = {"zip": None, "html": HTML, "pdf": b"%PDF-1.7\n1 0 obj<</OpenAction 2 0 R>>endobj\n"}


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("payload.html", HTML)
    return file.getvalue()


def valid_files(digit: Samples) -> Iterator[tuple[str, bytes]]:
    """The digit, light on dark in uint8 (28,28), in every way of writing it; by name."""
    plain = Image.fromarray(digit)
    large = plain.resize((112, 112), Image.Resampling.BICUBIC)
    yield from pngs_of_pillow(plain)
    yield from pngs_by_hand(digit)
    yield from jpegs(large)
    yield from webps(large)
    yield from bmps(plain)
    yield from oriented(large)
    yield from polyglots(large)


def pngs_of_pillow(plain: Image.Image) -> Iterator[tuple[str, bytes]]:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield f"png {mode}", saved(plain.convert(mode), "PNG")
    deep = Image.fromarray(np.asarray(plain).astype(np.uint16) * 257)
    yield "png I;16", saved(deep, "PNG")
    for bits in (1, 2, 4, 8):
        few = plain.quantize(2**bits)
        yield f"png palette of {bits} bits", saved(few, "PNG", bits=bits)
        darkest = int(np.argmin(np.array(few.getpalette()).reshape(-1, 3).sum(1)))
        options = {"bits": bits, "transparency": darkest}
        yield f"png palette of {bits} bits, ground transparent", saved(few, "PNG", **options)
    ink = Image.new("RGBA", plain.size, "white")
    ink.putalpha(plain)
    yield "png, light strokes on nothing", saved(ink, "PNG")
    pen = Image.new("RGBA", plain.size, "black")
    pen.putalpha(plain)
    yield "png, dark strokes on nothing", saved(pen, "PNG")
    yield "png, a negative", saved(Image.eval(plain, lambda value: 255 - value), "PNG")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "png, sRGB profile", saved(plain.convert("RGB"), "PNG", icc_profile=profile)
    yield "png, rubbish for a profile", saved(plain, "PNG", icc_profile=b"\xff" * 5_000)


def pngs_by_hand(digit: Samples) -> Iterator[tuple[str, bytes]]:
    deep = digit.astype(np.uint16) * 257
    opaque = np.full_like(deep, 65535)
    for depth in (1, 2, 4):
        yield f"png grey of {depth} bits", png(digit >> (8 - depth), depth, GREY)
        interlaced = png(digit >> (8 - depth), depth, GREY, interlaced=True)
        yield f"png grey of {depth} bits, interlaced", interlaced
    yield "png, 16-bit grey and alpha", png(np.stack([deep, opaque], -1), 16, GREY_ALPHA)
    yield "png, 16-bit colour", png(np.stack([deep] * 3, -1), 16, RGB)
    yield "png, 16-bit colour and alpha", png(np.stack([deep] * 3 + [opaque], -1), 16, RGB_ALPHA)
    yield "png interlaced", png(digit, 8, GREY, interlaced=True)
    yield "png interlaced, 16-bit", png(np.stack([deep] * 3, -1), 16, RGB, interlaced=True)
    ground = chunk(b"tRNS", struct.pack(">H", int(digit[0, 0])))
    yield "png, one grey is transparent", png(digit, 8, GREY, before=ground)
    bomb = zlib.compress(bytes(50 * 2**20), 9)
    for kind in (b"zTXt", b"iCCP"):
        yield (
            f"png, bomb in {kind.decode()}",
            png(digit, 8, GREY, before=chunk(kind, b"a\0\0" + bomb)),
        )
    text = chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)
    yield "png, bomb in iTXt", png(digit, 8, GREY, before=text)
    yield "png of 5,000 chunks", png(digit, 8, GREY, before=chunk(b"teXt", b"") * 5_000)
    gamma = chunk(b"gAMA", struct.pack(">I", 0)) + chunk(b"pHYs", struct.pack(">IIB", 0, 0, 9))
    yield "png, gamma of 0", png(digit, 8, GREY, before=gamma)


def jpegs(large: Image.Image) -> Iterator[tuple[str, bytes]]:
    for mode in ("L", "RGB", "CMYK", "YCbCr"):
        picture = large.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr") else large
        yield f"jpeg {mode}", saved(picture.convert(mode), "JPEG")
        yield f"jpeg {mode}, progressive", saved(picture.convert(mode), "JPEG", progressive=True)
    for sampling in (0, 1, 2):
        yield (
            f"jpeg, sampling {sampling}",
            saved(large.convert("RGB"), "JPEG", subsampling=sampling),
        )
    yield "jpeg, quality 30", saved(large, "JPEG", quality=30)
    yield "jpeg, restart markers", saved(large, "JPEG", restart_marker_blocks=1)
    yield "jpeg, rubbish for EXIF", saved(large, "JPEG", exif=b"Exif\0\0" + b"\xff" * 999)
    yield (
        "jpeg, EXIF that points at itself",
        saved(
            large, "JPEG", exif=b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 65535) + b"\x01" * 5_000
        ),
    )
    yield "jpeg, rubbish for a profile", saved(large, "JPEG", icc_profile=b"\xff" * 200_000)
    yield "jpeg, orientation 77", saved(large, "JPEG", exif=exif(77))


def webps(large: Image.Image) -> Iterator[tuple[str, bytes]]:
    for mode in ("L", "RGB", "RGBA"):
        yield f"webp {mode}", saved(large.convert(mode), "WEBP")
        yield f"webp {mode}, lossless", saved(large.convert(mode), "WEBP", lossless=True)
    yield "webp, rubbish for a profile", saved(large, "WEBP", icc_profile=b"\xff" * 999)
    yield "webp, rubbish for EXIF", saved(large, "WEBP", exif=b"\xff" * 999)


def bmps(plain: Image.Image) -> Iterator[tuple[str, bytes]]:
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"bmp {mode}", saved(plain.convert(mode), "BMP")
    upside_down = bytearray(saved(plain.transpose(Image.Transpose.FLIP_TOP_BOTTOM), "BMP"))
    upside_down[22:26] = struct.pack("<i", -plain.height)
    yield "bmp from top to bottom", bytes(upside_down)
    script = bytearray(saved(plain, "BMP"))
    script[2:6] = b"/*aa"  # the length of the file, which nobody reads
    yield "bmp and script", bytes(script) + b"*/=1;alert(1)"


def oriented(large: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Turned in the file, and upright by its EXIF orientation."""
    turn = Image.Transpose
    turns = (
        None, turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM, turn.TRANSPOSE,
        turn.ROTATE_90, turn.TRANSVERSE, turn.ROTATE_270,
    )  # fmt: skip
    for orientation, stored in enumerate(turns, start=1):
        turned = large if stored is None else large.transpose(stored)
        for file_format in ("PNG", "JPEG", "WEBP"):
            data = saved(turned, file_format, exif=exif(orientation))
            yield f"{file_format.lower()}, orientation {orientation}", data


def polyglots(large: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Something else as well, to whoever looks at the end or in the comments."""
    for name, side in SIDE_BYTES.items():
        side_bytes = side or zip_file()
        for file_format in ("PNG", "JPEG", "WEBP", "BMP"):
            yield f"{file_format.lower()} and {name}", saved(large, file_format) + side_bytes
        yield f"jpeg with {name} in a comment", jpeg_with(saved(large, "JPEG"), 0xFE, side_bytes)
        text = chunk(b"tEXt", b"a\0" + side_bytes)
        yield f"png with {name} in a comment", png(np.asarray(large), 8, GREY, before=text)
    yield "png in a png", saved(large, "PNG") + saved(Image.new("L", (9, 9), 255), "PNG")


def odd_sizes() -> Iterator[tuple[str, bytes]]:
    """Valid, and of no digit: any label will do."""
    for width, height in ((1, 1), (1, 60_000), (60_000, 1), (2, 3), (4_000, 4_000)):
        flat = Image.new("1" if width == 4_000 else "L", (width, height), 1)
        for file_format in ("PNG", "JPEG", "BMP"):
            yield f"{file_format.lower()} of {width} by {height}", saved(flat, file_format)
    for width, height in ((1, 1), (1, 16_383), (16_383, 1), (4_000, 4_000)):
        data = saved(Image.new("RGBA", (width, height), (1, 2, 3, 0)), "WEBP", method=0)
        yield f"webp of {width} by {height}", data
    side = 4_000  # 128 MB of samples in 130 kB
    pixels = zlib.compress(bytes(side * (1 + 8 * side)), 9)
    yield "png of 4000 by 4000, 16-bit colour and alpha", png_of(side, side, pixels, 16, RGB_ALPHA)
    yield "png of 16,000,000 by 1", png_of(16_000_000, 1, zlib.compress(bytes(16_000_001)))


@dataclass(frozen=True)
class Refused:
    """What must not be taken for a picture, and the code that says why."""

    data: bytes
    content_type: str
    status: int
    code: str


def refused_files(digit: Samples) -> dict[str, Refused]:
    plain = Image.fromarray(digit)
    return {**frames(plain), **wrong_sizes(plain), **other_formats(plain), **damaged(plain)}


def frames(plain: Image.Image) -> dict[str, Refused]:
    others = {"save_all": True, "append_images": [Image.new("RGB", (28, 28), "red")]}
    colour = plain.convert("RGB")
    return {
        "apng": Refused(saved(colour, "PNG", **others), "png", 422, "image_multi_frame"),
        "animated webp": Refused(saved(colour, "WEBP", **others), "webp", 422, "image_multi_frame"),
        "stereo pair": Refused(mpf_jpeg([0x20020002, 0x020002]), "jpeg", 422, "image_multi_frame"),
        "animated gif": Refused(
            saved(colour, "GIF", **others), "png", 415, "unsupported_image_format"
        ),
    }


def wrong_sizes(plain: Image.Image) -> dict[str, Refused]:
    found = {}
    jpeg, bmp = saved(plain, "JPEG"), saved(plain, "BMP")
    frame = jpeg.index(b"\xff\xc0") + 5
    vp8 = saved(plain, "WEBP")
    vp8x = b"VP8X" + struct.pack("<II", 10, 0) + b"\xff" * 6
    sizes = {(0, 28): "zero", (28, 0): "zero", (0, 0): "zero", (60_000, 60_000): "giant"}
    for (width, height), what in sizes.items():
        expected = (413, "image_too_many_pixels") if what == "giant" else (422, "image_corrupt")
        high_first, low_first = struct.pack(">HH", height, width), struct.pack("<ii", width, height)
        files = {
            "png": png_of(width, height, zlib.compress(bytes(100))),
            "jpeg": jpeg[:frame] + high_first + jpeg[frame + 4 :],
            "bmp": bmp[:18] + low_first + bmp[26:],
        }
        for file_format, data in files.items():
            name = f"{file_format} of {width} by {height}"
            found[name] = Refused(data, file_format, *expected)
    nothing = vp8[:26] + bytes(4) + vp8[30:]
    found["webp of 0 by 0"] = Refused(nothing, "webp", 422, "image_corrupt")
    riff = b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x
    found["giant webp"] = Refused(riff, "webp", 413, "image_too_many_pixels")
    least = bmp[:18] + struct.pack("<ii", 28, -(2**31)) + bmp[26:]
    found["bmp of the least height"] = Refused(least, "bmp", 413, "image_too_many_pixels")
    return found


def other_formats(plain: Image.Image) -> dict[str, Refused]:
    names = (
        "GIF",
        "TIFF",
        "ICO",
        "PPM",
        "TGA",
        "JPEG2000",
        "AVIF",
        "PCX",
        "DDS",
        "PDF",
        "EPS",
        "SGI",
    )
    files = {name: saved(plain.convert("RGB"), name) for name in names}
    files["SVG"] = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    files["HTML"], files["zip"] = HTML, zip_file()
    return {
        **{
            f"{name} called a png": Refused(data, "png", 415, "unsupported_image_format")
            for name, data in files.items()
        },
        "HEIC called a png": Refused(HEIC, "png", 415, "unsupported_image_format"),
        "HEIC by its own name": Refused(HEIC, "heic", 415, "unsupported_media_type"),
        "SVG by its own name": Refused(files["SVG"], "svg+xml", 415, "unsupported_media_type"),
        "GIF by its own name": Refused(files["GIF"], "gif", 415, "unsupported_media_type"),
        "PNG called a webp": Refused(saved(plain, "PNG"), "webp", 415, "content_type_mismatch"),
        "nothing": Refused(b"", "png", 422, "empty_body"),
    }


def damaged(plain: Image.Image) -> dict[str, Refused]:
    data = saved(plain, "PNG")
    found = {}
    for kind in (b"IHDR", b"IDAT"):
        start = data.index(kind) - 4
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        broken = data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:]
        found[f"png, checksum of {kind.decode()}"] = Refused(broken, "png", 422, "image_corrupt")
    rle = bytearray(saved(plain, "BMP"))
    rle[30] = 1
    found["bmp, run lengths"] = Refused(bytes(rle), "bmp", 415, "unsupported_image_format")
    progressive = saved(plain, "JPEG", progressive=True)
    scans = progressive[:-2] + progressive[progressive.rindex(b"\xff\xda") : -2] * 200 + b"\xff\xd9"
    found["jpeg of endless scans"] = Refused(scans, "jpeg", 415, "unsupported_image_format")
    chunks = png(np.asarray(plain), 8, GREY, before=chunk(b"teXt", b"") * 50_000)
    found["png of endless chunks"] = Refused(chunks, "png", 422, "image_corrupt")
    early = png_of(28, 28, zlib.compress(bytes(100)))
    found["png whose pixels end early"] = Refused(early, "png", 422, "image_truncated")
    rubbish = png_of(28, 28, b"\xff" * 100)
    found["png of rubbish"] = Refused(rubbish, "png", 422, "image_corrupt")
    return found
