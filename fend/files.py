"""The one way to write a file whole or not at all, and to know beforehand that it will work."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fend.errors import Invalid


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A new file beside `path` to write to; it takes the place of `path` at the end.

    Where the block raises, `path` stays as it was and nothing is left beside it. `durable`: on
    the disk, and not only in the kernel's memory, when the block has ended.

    Raises:
        OSError: the folder cannot be written to, or its disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        yield staging
        if durable:
            sync(staging)
        staging.replace(path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def replace_atomically(path: Path, data: bytes | str, *, durable: bool = False) -> None:
    """`path` with `data` as its content, text as UTF-8; see `replacing`."""
    with replacing(path, durable=durable) as staging:
        staging.write_bytes(data.encode() if isinstance(data, str) else data)


def check_file(flag: str, path: Path) -> None:
    """Refuse a file that could not be written after long work; nothing is left behind.

    Raises:
        Invalid (`output_unwritable`): names `flag` and says what is in the way.
    """
    if path.is_dir():
        raise _unwritable(flag, f"{path} is a folder; name a file in it")
    if not path.resolve().parent.is_dir():
        raise _unwritable(flag, f"there is no folder {path.resolve().parent}")
    if not path.exists() or path.is_file():
        check_folder(flag, path.resolve().parent)
    elif not os.access(path, os.W_OK):
        raise _unwritable(flag, f"{path} cannot be written to")


def check_folder(flag: str, folder: Path) -> None:
    """As `check_file`, for a folder to write files to, which may still have to be made."""
    there = folder.resolve()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise _unwritable(flag, f"{there} is a file, and no folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise _unwritable(flag, f"{there} cannot be written to: {error.strerror}") from error


def write_output(path: Path, text: str) -> None:
    """`text` to a file that somebody named; a pipe or a device stays what it is.

    Raises:
        OSError.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
    else:
        replace_atomically(path.resolve(), text)


def _unwritable(flag: str, message: str) -> Invalid:
    return Invalid(f"{flag}: {message}", code="output_unwritable")


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
