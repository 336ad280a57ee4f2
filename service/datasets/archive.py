"""An uploaded zip file from a stranger: what is in it, and how it is unpacked without harm."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fend.datasets import InvalidDatasetError

MAX_NAME_BYTES = 255
_ENTRY_BYTES = 200
"""Room for one file in the list at the end of a zip; a longer list is not read."""
_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_ZIP64_SIGNATURE = b"PK\x06\x07"
_ZIP64_BYTES = 20
# What zipfile and zlib raise; RuntimeError: encrypted, or compressed in an unknown way.
_DAMAGE_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)


@contextmanager
def open_archive(path: Path, max_files: int) -> Iterator[zipfile.ZipFile]:
    """The zip file at `path`, whose list of files is not longer than `max_files` explain.

    Raises:
        InvalidDatasetError: it is damaged, encrypted or no zip file, now or while it is read.
    """
    try:
        with path.open("rb") as file:
            _check_list(file, max_files)
            with zipfile.ZipFile(file) as archive:
                yield archive
    except _DAMAGE_ERRORS as error:
        raise InvalidDatasetError(f"the upload is not a readable zip file: {error}") from error


def is_npz(archive: zipfile.ZipFile) -> bool:
    """Whether `np.savez` wrote it."""
    return "images.npy" in archive.namelist()


def unpack(archive: zipfile.ZipFile, folder: Path, *, max_files: int, max_bytes: int) -> None:
    """Write the images of `archive` to `folder`/LABEL/FILE.

    One folder around all the others is left out, and so are names that begin with a dot,
    `__MACOSX`, and files beside the class folders.

    Raises:
        InvalidDatasetError: too many files or bytes, or an entry that is no plain file in a class
            folder; names the entry.
    """
    chosen = _images(archive)
    if len(chosen) > max_files:
        raise InvalidDatasetError(
            f"the upload holds {len(chosen)} images, at most {max_files} are accepted"
        )
    total_bytes = sum(info.file_size for info, _ in chosen)
    if total_bytes > max_bytes:
        raise InvalidDatasetError(
            f"the upload unpacks to {total_bytes} bytes, at most {max_bytes} are accepted"
        )
    for info, (label, name) in chosen:
        (folder / label).mkdir(exist_ok=True)
        try:
            # zipfile reads no more than the declared size, whatever the data unpack to.
            with archive.open(info) as packed, (folder / label / name).open("xb") as file:
                while block := packed.read(2**20):
                    file.write(block)
        except FileExistsError:
            raise InvalidDatasetError(f"the upload holds {info.filename!r} twice") from None


def _images(archive: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, tuple[str, str]]]:
    """The entries that are wanted, with their class and their name in it."""
    paths = [(info, _parts(info)) for info in archive.infolist() if not info.is_dir()]
    paths = [(info, parts) for info, parts in paths if not any(map(_is_hidden, parts))]
    tops = {parts[0] for _, parts in paths if len(parts) > 1}
    if len(tops) == 1 and any(len(parts) == 3 for _, parts in paths):
        paths = [(info, parts[1:]) for info, parts in paths if len(parts) > 1]
    chosen = []
    for info, parts in paths:
        if len(parts) > 2:
            raise InvalidDatasetError(
                f"the upload holds {info.filename!r}, deeper than LABEL/IMAGE; lay it out as one "
                "folder a class, full of image files"
            )
        if len(parts) == 2:
            chosen.append((info, (parts[0], parts[1])))
    if not chosen:
        raise InvalidDatasetError(
            "the upload holds no images in class folders; lay it out as LABEL/IMAGE.png, or send "
            "an .npz file with the arrays images and labels"
        )
    return chosen


def _parts(info: zipfile.ZipInfo) -> tuple[str, ...]:
    """The path of an entry that is a plain file at a place inside the archive."""
    name = info.filename
    parts = tuple(name.split("/"))
    if (
        not name.isprintable()
        or "\\" in name
        or any(part in ("", ".", "..") or len(part.encode()) > MAX_NAME_BYTES for part in parts)
    ):
        raise InvalidDatasetError(
            f"the upload holds {name[:MAX_NAME_BYTES]!r}, which is no path inside it"
        )
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise InvalidDatasetError(f"the upload holds {name!r}, which is a link or no plain file")
    if info.flag_bits & 1:
        raise InvalidDatasetError(f"the upload holds {name!r}, which is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidDatasetError(f"the upload holds {name!r}, compressed otherwise than deflated")
    return parts


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def _check_list(file: BinaryIO, max_files: int) -> None:
    """zipfile reads the list of files whole, so its length is looked at first."""
    size = file.seek(0, 2)
    start = max(0, size - _END.size - 2**16 - _ZIP64_BYTES)
    file.seek(start)
    tail = file.read()
    place = tail.rfind(_END_SIGNATURE)
    if place < 0 or len(tail) - place < _END.size:
        raise InvalidDatasetError("the upload is not a zip file, or not a whole one")
    list_bytes = _END.unpack_from(tail, place)[5]
    if tail[max(0, place - _ZIP64_BYTES) : place].startswith(_ZIP64_SIGNATURE) or (
        list_bytes > (max_files + 1) * _ENTRY_BYTES
    ):
        raise InvalidDatasetError(
            f"the upload is a zip file of too many files, at most {max_files} are accepted"
        )
    file.seek(0)
