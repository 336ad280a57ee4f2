"""The structure of a Windows bitmap (the BITMAPINFOHEADER family)."""

import struct

from fend.errors import Invalid, Unsupported
from fend.images.formats.container import Container, check_size

SIGNATURE = b"BM"

_OS2_HEADER = 12
_HEADER_SIZES = (_OS2_HEADER, 40, 52, 56, 64, 108, 124)
_RAW, _BITFIELDS = 0, 3


def read_bmp(data: bytes, max_pixels: int) -> Container:
    """Size of an uncompressed bitmap.

    Run-length encoded bitmaps are refused: rare, and Pillow unpacks them in a Python loop that a
    small file can keep busy for seconds while other requests wait for the interpreter.

    Raises:
        Invalid: `image_truncated` or `image_corrupt`.
        TooLarge: `image_too_many_pixels`.
        Unsupported: it is compressed, or of an unknown kind.
    """
    if len(data) < 26:
        raise Invalid("The BMP ends early. Send the whole file.", code="image_truncated")
    (header_size,) = struct.unpack_from("<I", data, 14)
    if header_size not in _HEADER_SIZES:
        raise Unsupported(
            "This is no known kind of BMP. Save it as PNG.", code="unsupported_image_format"
        )
    if len(data) < 14 + header_size:
        raise Invalid("The BMP ends early. Send the whole file.", code="image_truncated")
    if header_size == _OS2_HEADER:
        width_px, height_px = struct.unpack_from("<HH", data, 18)
    else:
        width_px, height_px = struct.unpack_from("<ii", data, 18)
        height_px = abs(height_px)  # negative: rows run from top to bottom
        (compression,) = struct.unpack_from("<I", data, 30)
        if compression not in (_RAW, _BITFIELDS):
            raise Unsupported(
                "Compressed BMP is not accepted. Save it as PNG.", code="unsupported_image_format"
            )
    check_size(height_px, width_px, max_pixels)
    return Container(format="bmp", stream=data, size_px=(height_px, width_px))
