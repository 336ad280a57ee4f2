import struct
import zlib
from contextlib import suppress

import image_files
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import (
    GREY,
    GREY28,
    GREY_ALPHA,
    RGB,
    RGB28,
    RGB_ALPHA,
    apng,
    chunk,
    gradient,
    png,
    png_of,
    png_rows,
    saved,
    spec_of,
)
from PIL import Image

from fend.errors import Invalid, TooLarge, Unsupported
from fend.images import decode

WHITE_ROWS = (b"\0" + b"\xff" * 28) * 28


def assert_refused(data: bytes, code: str, spec=GREY28) -> None:
    with pytest.raises((Invalid, Unsupported)) as caught:
        decode(data, spec)
    assert caught.value.code == code


def test_pixels_of_an_8_bit_image_of_the_right_size_are_exact():
    levels = np.arange(784, dtype=np.uint32).astype(np.uint8).reshape(28, 28)

    for mode in ("L", "RGB", "RGBA"):
        data = saved(Image.fromarray(levels).convert(mode))
        decoded = decode(data, GREY28)
        assert torch.equal(decoded.pixels, torch.from_numpy(levels.copy())[None].float() / 255)
        assert not decoded.resized
        assert torch.equal(decode(data, RGB28).pixels, decoded.pixels.expand(3, 28, 28))


def test_16_bit_grey_is_scaled_not_clipped():
    levels = np.linspace(0, 65535, 784).astype(np.uint16).reshape(28, 28)
    expected = torch.from_numpy(levels.astype(np.float32) / 65535)[None]

    assert torch.equal(decode(saved(Image.fromarray(levels)), GREY28).pixels, expected)
    shrunk = decode(saved(Image.fromarray(levels).resize((280, 280), 0)), GREY28).pixels
    assert torch.allclose(shrunk, expected, atol=0.03)


@pytest.mark.parametrize("colour", [GREY, GREY_ALPHA, RGB, RGB_ALPHA])
def test_16_bit_colour_and_alpha(colour):
    channels = {GREY: 1, GREY_ALPHA: 2, RGB: 3, RGB_ALPHA: 4}[colour]
    data = png(np.full((1, 2, channels), 0x8000, np.uint16), 16, colour)

    value = decode(data, spec_of((2, 1))).pixels[0, 0, 0].item()

    assert value == pytest.approx(0.25 if channels in (2, 4) else 0.5, abs=0.004)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_low_bit_depths_span_the_range(depth):
    data = png(np.array([[2**depth - 1, 0]]), depth, GREY)

    assert decode(data, spec_of((2, 1))).pixels.flatten().tolist() == [1, 0]


@pytest.mark.parametrize(
    ("colour", "depth"), [(GREY, 2), (GREY, 4), (GREY, 8), (GREY, 16), (RGB, 8), (RGB, 16)]
)
def test_the_transparent_colour_becomes_the_background(colour, depth):
    """Two pixels: the first has the colour that tRNS declares transparent, the second is white."""
    top = 2**depth - 1
    first = [top // 3] if colour == GREY else [1, 200, 3] if depth == 8 else [0x101, 0xC802, 0x303]
    samples = np.array([[first, [top] * len(first)]])
    transparency = chunk(b"tRNS", struct.pack(f">{len(first)}H", *first))
    data = png(samples, depth, colour, before=transparency)

    for background, value in (("black", 0), ("white", 1)):
        spec = spec_of((2, 1), background=background)
        assert decode(data, spec).pixels.flatten().tolist() == [value, 1]
        in_colour = decode(data, spec.model_copy(update={"channels": 3})).pixels
        assert in_colour[:, 0, 0].tolist() == [value] * 3


def test_palette_transparency_becomes_the_background():
    image = Image.new("P", (28, 28), 0)
    image.putpalette([10, 20, 30, 255, 255, 255])
    image.paste(1, (14, 0, 28, 28))
    for transparency in (0, bytes([0, 255]), bytes([0])):
        pixels = decode(saved(image, transparency=transparency), GREY28).pixels[0]
        assert pixels[:, :14].unique().tolist() == [0]
        assert pixels[:, 14:].unique().tolist() == [1]


@pytest.mark.parametrize(
    ("data", "still"),
    [
        (apng(1, 1, 0), True),
        (apng(0, 0, 0), True),
        (apng(2, 1, 0), True),  # one was announced that is not there
        (apng(1, 1, 1), True),  # and one is there that was not announced
        (apng(2, 1, 1, late=True), True),
        (apng(2, 1, 1, times=2), True),
        (apng(2, 1, 1), False),
        (apng(3, 1, 2), False),
        (apng(1, 0, 1), False),  # the still picture is none of its frames
    ],
)
def test_an_animation_of_one_frame_is_a_picture(data, still):
    if still:
        assert torch.equal(decode(data, GREY28).pixels, decode(saved(gradient()), GREY28).pixels)
    else:
        with pytest.raises(Invalid, match="animation") as caught:
            decode(data, GREY28)
        assert caught.value.code == "image_multi_frame"


def test_pixel_data_that_ends_early_is_no_black_picture():
    decode(png_of(28, 28, zlib.compress(WHITE_ROWS)), GREY28)
    for end in (len(WHITE_ROWS) - 1, 10 * 29, 0):
        assert_refused(png_of(28, 28, zlib.compress(WHITE_ROWS[:end])), "image_truncated")


@pytest.mark.parametrize("level", [0, 9])
@pytest.mark.parametrize("extra", [b"\0", bytes(4), bytes(100_000), zlib.compress(WHITE_ROWS)])
@pytest.mark.parametrize("own_chunk", [False, True])
def test_bytes_after_the_pixel_data_fill_no_picture(extra, level, own_chunk):
    for end, whole in ((len(WHITE_ROWS), True), (len(WHITE_ROWS) - 1, False), (10 * 29, False)):
        rows = zlib.compress(WHITE_ROWS[:end], level)
        after = chunk(b"IDAT", extra) if own_chunk else b""
        data = png_of(28, 28, rows if own_chunk else rows + extra, after=after)
        if whole:
            assert decode(data, GREY28).pixels.min() == 1
        else:
            assert_refused(data, "image_truncated")


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (29, 17)])
@pytest.mark.parametrize("depth", [1, 8])
def test_interlaced_pixel_data_is_whole_or_refused(size, depth):
    white = np.full(size[::-1], 2**depth - 1, np.uint8)
    rows = png_rows(white, depth, interlaced=True)
    complete, cut = (
        png_of(*size, zlib.compress(part), depth, interlaced=True) for part in (rows, rows[:-1])
    )

    assert decode(complete, spec_of(size)).pixels.min() == 1
    assert_refused(cut, "image_truncated", spec_of(size))


def test_every_single_byte_of_damage_is_noticed_or_harmless():
    data = saved(gradient("RGB"))
    intact = decode(data, RGB28).pixels

    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        with suppress(Invalid, TooLarge, Unsupported):
            assert torch.equal(decode(bytes(damaged), RGB28).pixels, intact)


def test_colour_chunks_change_nothing_however_often_and_broken():
    odd = [
        chunk(b"gAMA", struct.pack(">I", 0)) * 2, chunk(b"gAMA", b""), chunk(b"sRGB", b""),
        chunk(b"sRGB", b"\x09") * 2, chunk(b"cHRM", b"\0"), chunk(b"iCCP", b"no profile"),
        chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x")) * 2, chunk(b"cICP", b"\x09\x10\0\1"),
    ]  # fmt: skip
    plain = zlib.compress(WHITE_ROWS)

    assert decode(png_of(28, 28, plain, before=b"".join(odd)), GREY28).pixels.min() == 1


def test_a_png_for_ios_apps_is_unsupported():
    data = saved(gradient())

    assert_refused(data[:8] + chunk(b"CgBI", bytes(4)) + data[8:], "unsupported_image_format")


@given(
    depth=st.sampled_from([0, 1, 2, 3, 4, 8, 16, 255]),
    colour=st.integers(0, 7),
    size=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    interlaced=st.integers(0, 2),
    palette=st.binary(max_size=20),
    transparency=st.binary(max_size=8),
    rows=st.binary(max_size=400),
)
@settings(max_examples=300, deadline=None)
def test_odd_pngs_with_right_checksums_give_pixels_or_an_image_error(
    depth, colour, size, interlaced, palette, transparency, rows
):
    before = chunk(b"PLTE", palette) + chunk(b"tRNS", transparency)
    rows = zlib.compress(rows.ljust(9 * 73, b"\0"))
    data = image_files.png_of(*size, rows, depth, colour, interlaced, before)
    with suppress(Invalid, TooLarge, Unsupported):
        assert decode(data, GREY28).pixels.shape == (1, 28, 28)
