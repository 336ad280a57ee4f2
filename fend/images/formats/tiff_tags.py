"""Numbers in a TIFF directory: the format of EXIF blocks and of JPEG's multi-picture index."""

import struct

ORIENTATION = 0x0112  # EXIF 2.32, 4.6.4
NUMBER_OF_IMAGES = 0xB001  # CIPA DC-007 (Multi-Picture Format), 5.2.3

_SHORT, _LONG = 3, 4


def read_tag(block: bytes, tag: int) -> int | None:
    """The SHORT or LONG value of `tag` in the first directory; None when absent or unreadable."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, directory)
        for index in range(entries):
            entry = directory + 2 + 12 * index
            found, kind = struct.unpack_from(f"{order}HH", block, entry)
            if found == tag and kind in (_SHORT, _LONG):
                width = "H" if kind == _SHORT else "I"
                return int(struct.unpack_from(f"{order}{width}", block, entry + 8)[0])
    except struct.error:  # the directory points outside the block
        return None
    return None


def read_orientation(exif: bytes) -> int:
    """EXIF orientation, 1 to 8. Damaged metadata counts as upright, as in every viewer."""
    orientation = read_tag(exif.removeprefix(b"Exif\0\0"), ORIENTATION)
    return orientation if orientation is not None and 1 <= orientation <= 8 else 1
