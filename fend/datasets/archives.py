"""Archives from strangers, as any tool writes them: names are made alike, then checked to lead to a
place inside; what file managers leave beside people's files is passed over.

The list of entries is not read where it would take more than its share.
"""

import io
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

MAX_NAME_BYTES = 255
_ENTRY_BYTES = 600
"""Room for one entry in the list at the end of a zip, with what file managers add to it."""

# What zipfile and zlib raise; RuntimeError: encrypted, or compressed in an unknown way.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)
_LEFT = frozenset(
    (
        "__macosx", "icon\r", "network trash folder", "temporary items",  # macOS
        "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini",
        "$recycle.bin", "system volume information",  # Windows
        "@eadir", "#recycle", "@recycle", "@__thumb", "lost+found",  # network storage
    )
)  # fmt: skip
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_UTF_8_NAME = 0x800
_UNICODE_PATH = 0x7075
_DRIVE = re.compile("[A-Za-z]:")


class BadArchive(Exception):
    """Why an archive is not read, in words that follow its name: "holds ...". For the caller to
    raise as an error of its own."""


class Entry(NamedTuple):
    """A plain file in a zip, at a place inside it."""

    info: zipfile.ZipInfo
    parts: tuple[str, ...]


def is_left_behind(name: str) -> bool:
    """Whether a file or folder of this name is a file manager's or a tool's, and not people's:
    hidden ones (.DS_Store, ._a.png, .git), Thumbs.db, __MACOSX and the like."""
    return name.startswith(".") or name.casefold() in _LEFT


@contextmanager
def open_zip(path: Path, max_entries: int) -> Iterator[zipfile.ZipFile]:
    """The zip file at `path`, whose list is not longer than `max_entries` explain.

    Raises:
        BadArchive: it is damaged, encrypted or no zip file, now or while it is read.
    """
    try:
        with _File(io.FileIO(path)) as file:
            file.most_bytes = (max_entries + 1) * _ENTRY_BYTES
            with zipfile.ZipFile(file) as archive:
                file.most_bytes = None
                yield archive
    except _TooLong as error:
        raise BadArchive(
            f"is a zip file of too many files, at most {max_entries} are accepted"
        ) from error
    except UnicodeDecodeError as error:
        raise BadArchive("holds a name that is not UTF-8, though it says so") from error
    except _DAMAGE as error:
        raise BadArchive(f"is not a readable zip file, or not a whole one: {error}") from error


def plain_entries(archive: zipfile.ZipFile) -> list[Entry]:
    """Its files, without folders and what file managers leave.

    Raises:
        BadArchive: one leads out of it, or is a link, encrypted or compressed otherwise than
            deflated.
    """
    entries = []
    for info in archive.infolist():
        name = _name(info)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if name.endswith("/") or kind == stat.S_IFDIR:
            continue
        if parts := path_inside(name):
            _check_plain(info, name, kind)
            entries.append(Entry(info, parts))
    return entries


def path_inside(name: str) -> tuple[str, ...] | None:
    """The parts of the path that an entry of an archive names; None where a file manager left it.

    Raises:
        BadArchive: it could lead out of the archive, or is no name.
    """
    parts = tuple(
        unicodedata.normalize("NFC", part) for part in name.split("/") if part not in ("", ".")
    )
    if name.startswith("/") or ".." in parts or _DRIVE.match(name):
        raise BadArchive(f"holds {name[:MAX_NAME_BYTES]!a}, which is no path inside it")
    if any(map(is_left_behind, parts)):
        return None
    if not parts or any(
        len(part.encode(errors="surrogateescape")) > MAX_NAME_BYTES
        or any(unicodedata.category(character) == "Cc" for character in part)
        for part in parts
    ):
        raise BadArchive(f"holds {name[:MAX_NAME_BYTES]!a}, which is no path inside it")
    return parts


class _TooLong(Exception):
    pass


class _File(io.BufferedReader):
    """Refuses to read more at once than the list of entries may take: zipfile reads it whole."""

    most_bytes: int | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes."""
        if self.most_bytes is not None and size is not None and size > self.most_bytes:
            raise _TooLong
        return super().read(size)


def _name(info: zipfile.ZipInfo) -> str:
    """As it was meant: with slashes, and in Unicode where its writer said or meant so."""
    name = info.filename
    if not info.flag_bits & _UTF_8_NAME:
        written = name.encode("cp437", errors="replace")
        try:
            # macOS writes UTF-8 and does not say so; the rest is as the standard has it.
            name = _unicode_path(info.extra, written) or written.decode()
        except UnicodeDecodeError:
            # The second byte of a letter, such as in Shift JIS, may look like a backslash.
            return name.replace("\\", "_" if "/" in name else "/")
    return name.replace("\\", "/")


def _unicode_path(extra: bytes, written: bytes) -> str | None:
    """The name in the field that Info-ZIP adds to one that is not in Unicode."""
    while len(extra) >= 4:
        kind, size = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and int.from_bytes(field[1:5], "little") == zlib.crc32(written):
            return field[5:].decode()
    return None


def _check_plain(info: zipfile.ZipInfo, name: str, kind: int) -> None:
    shown = f"holds {name[:MAX_NAME_BYTES]!a}"
    if kind not in (0, stat.S_IFREG):
        raise BadArchive(f"{shown}, which is a link or no plain file")
    if info.flag_bits & 1:
        raise BadArchive(f"{shown}, which is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        raise BadArchive(
            f"{shown}, compressed with {method}, which is not supported; pack it with Deflate"
        )
