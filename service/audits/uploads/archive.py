"""An uploaded zip file from a stranger: which of its entries are images, and how they are unpacked
without harm."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fend.bundles.archives import BadArchive, check_plain, open_zip, path_inside
from fend.datasets import InvalidDatasetError


@contextmanager
def open_archive(path: Path, max_files: int) -> Iterator[zipfile.ZipFile]:
    """The zip file at `path`.

    Raises:
        InvalidDatasetError: `open_zip` does not open it, or an entry is not what it may be.
    """
    try:
        with open_zip(path, max_files) as archive:
            yield archive
    except BadArchive as error:
        raise InvalidDatasetError(f"the upload {error}") from error


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
    parts = path_inside(info.filename)
    check_plain(info)
    return parts


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"
