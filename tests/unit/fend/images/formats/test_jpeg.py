import struct

import pytest
import torch
from image_files import GREY28, RGB28, gradient, jpeg_with, mpf_jpeg, saved, seven
from PIL import Image

from fend.errors import Invalid, Unsupported
from fend.images import decode

PLAIN = saved(gradient("RGB"), "JPEG")
FRAME = PLAIN.index(b"\xff\xc0")


def changed(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


def assert_same_picture(data: bytes) -> None:
    assert torch.equal(decode(data, RGB28).pixels, decode(PLAIN, RGB28).pixels)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "kinds",
    [
        [0x20030000],
        [0x20030000, 0x40010001],
        [0x20030000, 0x40010002],
        [0x20030000, 0x40010001, 0x40010002],
        [0x20030000, 0],
        [0, 0],
        [0x20030000, 0x050000],
        [0x020002],
    ],
    ids=str,
)
def test_a_photo_with_something_beside_it_is_that_photo(kinds, order):
    assert_same_picture(mpf_jpeg(kinds, order))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [0x020001, 0x020002, 0x020003])
@pytest.mark.parametrize("primary", [0x20030000, 0x20020002])
def test_the_views_of_one_scene_are_several_pictures(kind, primary, order):
    with pytest.raises(Invalid, match="2 pictures") as caught:
        decode(mpf_jpeg([primary, kind], order), GREY28)
    assert caught.value.code == "image_multi_frame"


@pytest.mark.parametrize(
    "index", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", mpf_jpeg([0x020002] * 2)[30:60], bytes(60)]
)
def test_an_index_that_cannot_be_read_says_nothing(index):
    assert_same_picture(jpeg_with(PLAIN, 0xE2, b"MPF\0" + index))


def test_a_view_s_own_index_after_the_picture_is_not_read():
    assert_same_picture(PLAIN + mpf_jpeg([0x20020002, 0x020002]))


@pytest.mark.parametrize(
    "parts", [[(1, 2)], [(2, 2), (1, 2)], [(1, 1), (1, 1)], [(0, 0)], [(3, 2), (9, 1)]], ids=str
)
def test_a_colour_profile_in_parts_changes_nothing(parts):
    data = PLAIN
    for number, of in parts:
        data = jpeg_with(data, 0xE2, b"ICC_PROFILE\0" + bytes((number, of)) + b"\xff" * 999)
    assert_same_picture(data)


def lossless(size: tuple[int, int]) -> bytes:
    """A lossless JPEG of one level, 128: each pixel is its neighbour, whose code is the bit 0."""
    width, height = size
    bits = bytes((width * height + 7) // 8)
    return (
        b"\xff\xd8"
        b"\xff\xc4" + struct.pack(">HB", 20, 0) + b"\1" + bytes(15) + b"\0"
        b"\xff\xc3" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
        b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\1\0\1\0\0" + bits + b"\xff\xd9"
    )


@pytest.mark.parametrize("size", [(28, 28), (900, 700)])
def test_a_lossless_jpeg_is_decoded_at_any_size(size):
    """No decoder scales it on the way, as they do others."""
    pixels = decode(lossless(size), GREY28.model_copy(update={"resize": "stretch"})).pixels

    assert torch.equal(pixels, torch.full_like(pixels, 128 / 255))


@pytest.mark.parametrize(
    "data",
    [
        changed(PLAIN, FRAME + 4, b"\x0c"),  # 12 bits a sample
        changed(PLAIN, FRAME + 4, b"\x10"),
        changed(PLAIN, FRAME + 9, b"\2"),  # components
        changed(PLAIN, FRAME + 1, b"\xc3"),  # lossless, and none in truth
        changed(PLAIN, FRAME + 1, b"\xc5"),
        changed(PLAIN, FRAME + 1, b"\xcb"),
        jpeg_with(PLAIN, 0xDE, PLAIN[FRAME + 4 : FRAME + 19]),  # hierarchical
        changed(PLAIN, FRAME + 5, b"\0\0")[:-2] + b"\xff\xdc\0\4\0\x1c\xff\xd9",
    ],
)
def test_kinds_that_no_decoder_here_reads_are_unsupported_not_damaged(data):
    with pytest.raises(Unsupported, match=r"support.*Save it") as caught:
        decode(data, GREY28)
    assert caught.value.code == "unsupported_image_format"
    assert " at 0x" not in str(caught.value)


def test_a_jpeg_of_endless_scans_is_unsupported():
    data = saved(gradient(), "JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")

    with pytest.raises(Unsupported, match="scans") as caught:
        decode(data[:-2] + data[scan:-2] * 200 + data[-2:], GREY28)
    assert caught.value.code == "unsupported_image_format"


def test_cmyk_is_not_shown_as_its_negative():
    red = Image.new("CMYK", (28, 28), (0, 255, 255, 0))

    pixels = decode(saved(red, "JPEG"), RGB28).pixels.mean(dim=(1, 2))

    assert pixels.tolist() == pytest.approx([1, 0, 0], abs=0.02)


def test_a_large_jpeg_looks_like_the_same_png():
    image = seven(ink=20, paper=230, size=(1600, 1200))

    jpeg, png = (decode(saved(image, form), GREY28).pixels for form in ("JPEG", "PNG"))

    assert (jpeg - png).abs().max() < 0.03
