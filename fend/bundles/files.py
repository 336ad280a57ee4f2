"""Copies the files of one bundle out of an untrusted folder or archive.

Nothing is unpacked to a path that the archive names: the names of a bundle's files are known, and
only those are written, as plain files, into one folder.
"""

import gzip
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from fend.bundles.bundle import CARD, MANIFEST, own_file
from fend.datasets.archives import BadArchive, open_zip, path_inside, plain_entries
from fend.errors import Invalid, Unavailable

MAX_BYTES = 2**30
MAX_ENTRIES = 1000
_WANTED = re.compile(rf"{re.escape(MANIFEST)}|{re.escape(CARD)}|[a-z0-9_-]{{1,100}}\.safetensors")
_BLOCK_BYTES = 2**20
_GZIP = b"\x1f\x8b"
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError,
)  # fmt: skip
"""What reading a damaged, encrypted or unknown archive raises."""

T = TypeVar("T")


def copy_bundle_files(source: Path, folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Write the manifest, card and weights in `source` to `folder`, which exists and is empty.

    `source` is the folder of a bundle, or a .zip, .tar or .tar.gz of one, with its files
    at the top or in one folder. What lies deeper, or has another name, is left out.

    Raises:
        Unavailable (`bundle_missing`): there is no manifest.
        Invalid: `bundle_too_large` where it unpacks to more than `max_bytes` or has more than
            MAX_ENTRIES entries; `archive_invalid` where it is not one whole, plain bundle.
        OSError: `folder` cannot be written.
    """
    copy = _Copy(source, folder, max_bytes)
    if source.is_dir():
        for path in source.iterdir():
            if _WANTED.fullmatch(path.name) and own_file(source, path.name).is_file():
                with path.open("rb") as file:
                    copy.take(path.name, file)
    elif not source.is_file():
        raise Unavailable(f"there is no folder and no archive {source}", code="bundle_missing")
    elif zipfile.is_zipfile(source):
        _copy_zip(source, copy)
    else:
        _copy_tar(source, copy)
    if not (folder / MANIFEST).is_file():
        raise Unavailable(f"no bundle in {source}: there is no {MANIFEST}", code="bundle_missing")


class _Copy:
    """Writes what is wanted, and counts."""

    def __init__(self, source: Path, folder: Path, max_bytes: int) -> None:
        self._source = source
        self._folder = folder
        self.max_bytes = max_bytes
        self._left_bytes = max_bytes
        self._entries = 0
        self._parents: set[str] = set()

    def count(self) -> None:
        """One more entry, wanted or not."""
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise self.too_many()

    def too_many(self) -> Invalid:
        """The error for more entries than a bundle has."""
        return Invalid(
            f"{self._source} has more than {MAX_ENTRIES} entries; pack one bundle alone",
            code="bundle_too_large",
        )

    def wanted(self, parts: tuple[str, ...] | None) -> str | None:
        """The name of the bundle's file that an entry is; None for what is left out."""
        if parts is None or len(parts) > 2 or not _WANTED.fullmatch(parts[-1]):
            return None
        self._parents.add("/".join(parts[:-1]))
        if len(self._parents) > 1:
            raise Invalid(
                f"{self._source} holds several bundles; pack one alone", code="archive_invalid"
            )
        return parts[-1]

    def take(self, name: str, file: IO[bytes]) -> None:
        """Write one file, however long it claims to be."""
        target = self._folder / name
        if target.exists():
            raise Invalid(f"{self._source} holds {name!r} twice", code="archive_invalid")
        with target.open("xb") as copy:
            while block := _reading(self._source, lambda: file.read(_BLOCK_BYTES)):
                self._left_bytes -= len(block)
                if self._left_bytes < 0:
                    raise self.too_large()
                copy.write(block)

    def too_large(self) -> Invalid:
        """The error for what is over the limit."""
        return Invalid(
            f"{self._source} holds more than {self.max_bytes} bytes; --max-bytes allows more",
            code="bundle_too_large",
        )


def _copy_zip(source: Path, copy: _Copy) -> None:
    with _named(source), open_zip(source, MAX_ENTRIES) as archive:
        if len(archive.infolist()) > MAX_ENTRIES:
            raise copy.too_many()
        for info, parts in plain_entries(archive):
            name = copy.wanted(parts)
            if name is None:
                continue
            with _reading(source, partial(archive.open, info)) as file:
                copy.take(name, file)


def _copy_tar(source: Path, copy: _Copy) -> None:
    with source.open("rb") as file:
        packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        limited: Any = _Limited(gzip.GzipFile(fileobj=file) if packed else file, copy)
        # "r|" reads from front to back, so that what is skipped and what is read both count.
        archive = _reading(source, partial(tarfile.open, fileobj=limited, mode="r|"))
        while (info := _reading(source, archive.next)) is not None:
            copy.count()
            with _named(source):
                parts = None if info.isdir() else path_inside(info.name.replace("\\", "/"))
            name = copy.wanted(parts)
            if name is None:
                continue
            contents = archive.extractfile(info) if info.isreg() else None
            if contents is None:
                raise Invalid(
                    f"{source} holds {name!r} as a link or no plain file", code="archive_invalid"
                )
            copy.take(name, contents)


class _Limited:
    """What a tar unpacks to, up to a limit: its headers alone could fill the memory."""

    def __init__(self, stream: Any, copy: _Copy) -> None:
        self._stream = stream
        self._copy = copy
        self._left_bytes = copy.max_bytes + MAX_ENTRIES * 2 * tarfile.BLOCKSIZE

    def read(self, size: int) -> bytes:
        """The next bytes."""
        block: bytes = self._stream.read(size)
        self._left_bytes -= len(block)
        if self._left_bytes < 0:
            raise self._copy.too_large()
        return block


@contextmanager
def _named(source: Path) -> Iterator[None]:
    try:
        yield
    except BadArchive as error:
        raise Invalid(f"{source} {error}; copy or pack it again", code="archive_invalid") from error


def _reading(source: Path, step: Callable[[], T]) -> T:
    try:
        return step()
    except _DAMAGE as error:
        raise Invalid(
            f"{source} is no readable .zip, .tar or .tar.gz: {error}; copy or pack it again",
            code="archive_invalid",
        ) from error
