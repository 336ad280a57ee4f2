"""The one way to write a file whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
