import struct

import pytest
from image_files import GREY28, gradient, saved

from fend.errors import Unsupported
from fend.images import decode

PALETTE, COLOUR = saved(gradient("P"), "BMP"), saved(gradient("RGBA"), "BMP")


def changed(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


@pytest.mark.parametrize(
    "data",
    [
        *(changed(PALETTE, 30, bytes((kind,))) for kind in (1, 2, 4, 5, 6, 11)),  # compression
        *(changed(PALETTE, 28, bytes((bits,))) for bits in (2, 64)),
        changed(PALETTE, 46, struct.pack("<I", 70_000)),  # colours
        changed(changed(COLOUR, 30, b"\3"), 54, struct.pack("<III", 0xF000, 0xF0, 0xF)),
        *(changed(PALETTE, 14, bytes((size,))) for size in (16, 66)),  # of the header
    ],
)
def test_kinds_that_no_decoder_here_reads_are_unsupported_not_damaged(data):
    with pytest.raises(Unsupported, match="Save it as PNG") as caught:
        decode(data, GREY28)
    assert caught.value.code == "unsupported_image_format"
