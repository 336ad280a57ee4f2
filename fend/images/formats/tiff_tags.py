"""Values in a TIFF directory: the format of EXIF blocks and of JPEG's multi-picture index."""

import re
import struct

MP_ENTRY = 0xB002  # CIPA DC-007 (Multi-Picture Format), 5.2.3
_ORIENTATION = 0x0112  # EXIF 2.32, 4.6.4

# TIFF 6.0, section 2, and its supplements: how `struct` reads one value of each type.
_TYPES = {
    1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii", 11: "f",
    12: "d", 13: "I", 16: "Q",
}  # fmt: skip
_NO_NUMBERS = (1, 2, 7)  # bytes and text, which Pillow takes for no number either
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def read_values(block: bytes, tag: int) -> tuple[str, int, bytes] | None:
    """The byte order (as `struct` has it), type and values of `tag` in the first directory.

    The first where there are two, as Pillow has it; None when absent or unreadable.
    """
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, directory)
        for index in range(entries):
            entry = directory + 2 + 12 * index
            found, kind, count, offset = struct.unpack_from(f"{order}HHII", block, entry)
            if found == tag and kind in _TYPES:
                length = count * struct.calcsize("=" + _TYPES[kind])
                start = offset if length > 4 else entry + 8
                if start + length <= len(block):
                    return order, kind, block[start : start + length]
    except struct.error:  # the directory points outside the block
        return None
    return None


def read_orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Orientation, 1 to 8, of EXIF, or of XMP where EXIF has none, as Pillow reads them.

    Damaged or impossible metadata counts as upright, as in every viewer.
    """
    for _ in range(2):  # some writers put the prefix twice
        exif = exif.removeprefix(b"Exif\0\0")
    values = read_values(exif, _ORIENTATION)
    number = 1.0
    if values is None:
        found = _XMP_ORIENTATION.search(xmp)
        number = float(found[1]) if found else 1
    elif values[1] not in _NO_NUMBERS and values[2]:
        order, kind, data = values
        first, *rest = struct.unpack_from(order + _TYPES[kind], data)
        number = first if not rest else first / rest[0] if rest[0] else 1
    return int(number) if number in range(1, 9) else 1
