"""Zip files from strangers: opened without reading more than their list of entries may take, and
each entry checked to be a plain file at a place inside."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

MAX_NAME_BYTES = 255
_ENTRY_BYTES = 200
"""Room for one entry in the list at the end of a zip; a longer list is not read."""

_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_ZIP64_SIGNATURE = b"PK\x06\x07"
_ZIP64_BYTES = 20
# What zipfile and zlib raise; RuntimeError: encrypted, or compressed in an unknown way.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)


class BadArchive(Exception):
    """Why an archive is not read, in words that follow its name: "holds ...". For the caller to
    raise as an error of its own."""


@contextmanager
def open_zip(path: Path, max_entries: int) -> Iterator[zipfile.ZipFile]:
    """The zip file at `path`, whose list is not longer than `max_entries` explain.

    Raises:
        BadArchive: it is damaged, encrypted or no zip file, now or while it is read.
    """
    try:
        with path.open("rb") as file:
            _check_list(file, max_entries)
            with zipfile.ZipFile(file) as archive:
                yield archive
    except _DAMAGE as error:
        raise BadArchive(f"is not a readable zip file: {error}") from error


def path_inside(name: str) -> tuple[str, ...]:
    """The parts of the path that an entry of an archive names.

    Raises:
        BadArchive: it could lead out of the archive, or is no name.
    """
    parts = tuple(name.split("/"))
    if (
        not name.isprintable()
        or "\\" in name
        or any(part in ("", ".", "..") or len(part.encode()) > MAX_NAME_BYTES for part in parts)
    ):
        raise BadArchive(f"holds {name[:MAX_NAME_BYTES]!r}, which is no path inside it")
    return parts


def check_plain(info: zipfile.ZipInfo) -> None:
    """Raise BadArchive unless the entry is a plain file, neither encrypted nor oddly packed."""
    name = info.filename[:MAX_NAME_BYTES]
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise BadArchive(f"holds {name!r}, which is a link or no plain file")
    if info.flag_bits & 1:
        raise BadArchive(f"holds {name!r}, which is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadArchive(f"holds {name!r}, compressed otherwise than deflated")


def _check_list(file: BinaryIO, max_entries: int) -> None:
    """zipfile reads the list of entries whole, so its length is looked at first."""
    size = file.seek(0, 2)
    start = max(0, size - _END.size - 2**16 - _ZIP64_BYTES)
    file.seek(start)
    tail = file.read()
    place = tail.rfind(_END_SIGNATURE)
    if place < 0 or len(tail) - place < _END.size:
        raise BadArchive("is not a zip file, or not a whole one")
    list_bytes = _END.unpack_from(tail, place)[5]
    if tail[max(0, place - _ZIP64_BYTES) : place].startswith(_ZIP64_SIGNATURE) or (
        list_bytes > (max_entries + 1) * _ENTRY_BYTES
    ):
        raise BadArchive(f"is a zip file of too many files, at most {max_entries} are accepted")
    file.seek(0)
