"""Untrusted bytes to pixels: every mode of every format, sizes, limits, damage."""

import resource
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import image_files
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_files import DIGITS28, GREY28, HEIC, RGB28, chunk, gradient, png_of, saved, spec_of
from PIL import Image, ImageFile

from fend.errors import Invalid, TooLarge, Unsupported
from fend.images import DecodedImage, DecodeLimits, decode

DAMAGE = {"image_truncated", "image_corrupt"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


def assert_decodes_or_image_error(data: bytes, spec=DIGITS28) -> DecodedImage | None:
    try:
        decoded = decode(data, spec)
    except (Invalid, TooLarge, Unsupported) as error:
        if " at 0x" in str(error):
            raise
        return None
    assert decoded.pixels.shape == (spec.channels, spec.height_px, spec.width_px)
    assert decoded.pixels.dtype == torch.float32
    assert bool(((decoded.pixels >= 0) & (decoded.pixels <= 1)).all())
    return decoded


@pytest.mark.parametrize(
    "spec",
    [*(spec.model_copy(update={"resize": "stretch"}) for spec in (GREY28, RGB28)), DIGITS28],
    ids=["grey", "rgb", "digits"],
)
@pytest.mark.parametrize(
    ("file_format", "mode"),
    [
        *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
        *(("WEBP", mode) for mode in ("L", "RGB", "RGBA", "P")),
        *(("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")),
    ],
)
@pytest.mark.parametrize("size", [(28, 28), (61, 40), (3, 5)], ids=str)
def test_every_mode_of_every_format_gives_pixels(file_format, mode, spec, size):
    decoded = assert_decodes_or_image_error(saved(gradient(mode, size), file_format), spec)

    assert decoded.source_format == file_format.lower()
    assert decoded.source_size_px == (size[1], size[0])
    assert decoded.resized == (size != (28, 28))
    if spec is not DIGITS28:  # dark at the top left, light at the bottom right, in every mode
        assert decoded.pixels[:, 14:, 14:].mean() > decoded.pixels[:, :14, :14].mean() + 0.05


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)])
def test_extreme_shapes(size):
    assert assert_decodes_or_image_error(saved(Image.new("L", size, 255))) is not None


def test_empty_body():
    with pytest.raises(Invalid, match="Send") as caught:
        decode(b"", GREY28)
    assert caught.value.code == "empty_body"


def test_byte_limit_is_inclusive():
    data = saved(gradient())

    decode(data, GREY28, DecodeLimits(max_bytes=len(data)))
    with pytest.raises(TooLarge, match=str(len(data))) as caught:
        decode(data, GREY28, DecodeLimits(max_bytes=len(data) - 1))
    assert caught.value.code == "image_too_large_bytes"


@pytest.mark.parametrize("file_format", FORMATS)
def test_pixel_limit_is_inclusive(file_format):
    data = saved(gradient("RGB", (30, 20)), file_format)

    limit = 150 if file_format == "JPEG" else 600

    decode(data, GREY28, DecodeLimits(max_pixels=limit))
    with pytest.raises(TooLarge, match="30x20") as caught:
        decode(data, GREY28, DecodeLimits(max_pixels=limit - 1))
    assert caught.value.code == "image_too_many_pixels"


def test_a_photo_of_48_million_pixels_is_taken():
    data = saved(Image.new("RGB", (8064, 6048), "white"), "JPEG")

    assert decode(data, GREY28).source_size_px == (6048, 8064)


def peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bombs() -> dict[str, bytes]:
    side = 30_000
    jpeg = bytearray(saved(gradient(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    bmp = bytearray(saved(gradient(), "BMP"))
    bmp[18:26] = struct.pack("<ii", side, -side)
    return {
        "png": png_of(side, side, zlib.compress(bytes(1000))),
        "png_cut_after_its_header": png_of(side, side, b"")[:33],
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "webp": image_files.riff(image_files.vp8x((side, side), 0)),
    }


@pytest.mark.parametrize("name", bombs())
@pytest.mark.parametrize("max_pixels", [16_000_000, 10**12], ids=["default", "pillows_own"])
def test_a_bomb_is_refused_before_memory_is_taken(name, max_pixels):
    data = bombs()[name]
    bound_before = Image.MAX_IMAGE_PIXELS
    memory_before = peak_memory_bytes()

    # Any warning of Pillow would be an error here (see filterwarnings), and not this one.
    with pytest.raises(TooLarge, match="30000x30000") as caught:
        decode(data, GREY28, DecodeLimits(max_pixels=max_pixels))

    assert caught.value.code == "image_too_many_pixels"
    assert peak_memory_bytes() - memory_before < 20 * 2**20  # decoded, it is 900 MB
    assert bound_before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("keyword", [b"a", b"Raw profile type exif", b"XML:com.adobe.xmp"])
def test_a_png_of_inflating_text_is_only_its_picture(keyword):
    bomb = zlib.compress(bytes(50 * 2**20))
    text = chunk(b"zTXt", keyword + b"\0\0" + bomb) * 20
    text += chunk(b"iTXt", keyword + b"\0\1\0\0\0" + bomb) * 20
    data = png_of(1, 1, zlib.compress(b"\0\x80"), before=chunk(b"iCCP", b"a\0\0" + bomb) + text)

    tracemalloc.start()
    pixels = decode(data, spec_of((1, 1))).pixels
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert pixels.item() == np.float32(128) / np.float32(255)
    assert peak < len(data) + 2**22


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"\x89PNG",
        b"GIF89a" + bytes(50),
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"BM" + bytes(60),
        b"\0\0\0\x18ftypmp42" + bytes(50),
        *(saved(gradient("RGB"), name) for name in ("GIF", "TIFF", "PPM", "ICO")),
    ],
    ids=lambda data: repr(data[:8]),
)
def test_other_files_are_unsupported(data):
    with pytest.raises(Unsupported, match="PNG") as caught:
        decode(data, GREY28)
    assert caught.value.code == "unsupported_image_format"


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (HEIC, "HEIC.*as JPEG.*Most Compatible"),
        (HEIC.replace(b"heic", b"heix"), "HEIC.*as JPEG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40), "HEIC.*as JPEG"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + bytes(40), "AVIF.*PNG"),
        (saved(gradient("RGB"), "AVIF"), "AVIF.*PNG"),
    ],
)
def test_what_phones_send_is_told_how_to_be_sent(data, advice):
    with pytest.raises(Unsupported, match=advice) as caught:
        decode(data, GREY28)
    assert caught.value.code == "unsupported_image_format"


def test_bytes_after_the_picture_do_not_matter():
    image = gradient("RGB")
    trailer = saved(image, "JPEG") + bytes(range(256)) * 20

    for file_format in FORMATS:
        data = saved(image, file_format)
        assert torch.equal(decode(data + trailer, RGB28).pixels, decode(data, RGB28).pixels)


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_cut_anywhere_is_refused_whatever_pillow_is_told(file_format, lenient, monkeypatch):
    data = saved(gradient("RGB", (50, 40)), file_format)

    for end in range(16, len(data), 10):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
        with pytest.raises(Invalid) as caught:
            decode(data[:end], GREY28)
        assert caught.value.code in DAMAGE
    with pytest.raises(Invalid, match="ends early") as caught:
        decode(data[: len(data) // 2], GREY28)
    assert caught.value.code == "image_truncated"
    for end in range(1, 16):
        assert assert_decodes_or_image_error(data[:end]) is None


@pytest.mark.parametrize(
    "data",
    [
        png_of(0, 5, zlib.compress(b"")),
        png_of(4, 4, zlib.compress(bytes(20)), colour=3),
        png_of(4, 4, zlib.compress(bytes(20)), depth=7),
        png_of(4, 4, zlib.compress(bytes(20)), colour=5),
        png_of(4, 4, zlib.compress(bytes(20)), before=chunk(b"tRNS", b"\0")),
        png_of(4, 4, zlib.compress(b""), before=chunk(b"IHDR", bytes(13))),
        png_of(4, 4, b"\xff" * 20),
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xda\0\x02\xff\xd9",
        b"RIFF\x40\0\0\0WEBPVP8 " + bytes(60),
        b"RIFF\x40\0\0\0WEBPJUNK" + bytes(60),
    ],
)
def test_impossible_files_are_corrupt(data):
    with pytest.raises(Invalid) as caught:
        decode(data, GREY28)
    assert caught.value.code == "image_corrupt"


@pytest.mark.parametrize("lenient", [False, True])
def test_pillows_own_complaint_is_kept_whatever_it_is_told(lenient, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    with pytest.raises(Invalid) as caught:  # there is no filter 9
        decode(png_of(4, 4, zlib.compress((b"\x09" + bytes(4)) * 4)), GREY28)

    assert caught.value.code == "image_corrupt"
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    "flood",
    [
        png_of(1, 1, zlib.compress(bytes(2)), before=chunk(b"aaAa", b"") * 50_000),
        b"\xff\xd8" + b"\xff\xfe\0\x02" * 50_000,
        image_files.riff(image_files.vp8x((1, 1), 0), *[(b"JUNK", b"")] * 50_000),
    ],
    ids=["png", "jpeg", "webp"],
)
def test_a_flood_of_empty_parts_is_corrupt(flood):
    with pytest.raises(Invalid, match="more than") as caught:
        decode(flood, GREY28)
    assert caught.value.code == "image_corrupt"


SAMPLES = (
    *(saved(gradient(mode, (31, 23))) for mode in ("1", "LA", "P", "RGB", "RGBA", "I;16")),
    *(saved(gradient(mode, (31, 23)), "JPEG") for mode in ("L", "CMYK")),
    *(saved(gradient(mode, (31, 23)), "WEBP") for mode in ("RGB", "RGBA")),
    *(saved(gradient(mode, (31, 23)), "BMP") for mode in ("P", "RGBA")),
    image_files.mpf_jpeg([0x030000, 0]),
    image_files.animated_webp(1),
    image_files.apng(1, 1, 0),
)


@given(
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF....WEBPVP8X", b"BM"]),
    rest=st.binary(max_size=300),
)
@example(start=b"BM", rest=bytes(60))
@settings(max_examples=300, deadline=None)
def test_random_bytes_give_pixels_or_an_image_error(start, rest):
    assert_decodes_or_image_error(start + rest)


@given(
    data=st.sampled_from(SAMPLES),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), max_size=5),
)
@settings(max_examples=300, deadline=None)
def test_damaged_files_give_pixels_or_an_image_error(data, edits):
    damaged = bytearray(data)
    for position, replacement in edits:
        position %= len(damaged)
        damaged[position : position + len(replacement)] = replacement
    assert_decodes_or_image_error(bytes(damaged))


def test_threads_do_not_disturb_each_other():
    jobs = [(data, decode(data, DIGITS28).pixels) for data in SAMPLES] * 20

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda job: decode(job[0], DIGITS28).pixels, jobs))

    assert all(torch.equal(got, expected) for got, (_, expected) in zip(results, jobs, strict=True))
