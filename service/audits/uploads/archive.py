"""An uploaded zip file from a stranger: which of its entries are images, and how they are unpacked
without harm."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from fend.datasets import InvalidDatasetError
from fend.datasets.archives import BadArchive, open_zip, plain_entries


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

    Folders around all the others are left out, and so are files beside the class folders and what
    file managers leave.

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
            raise InvalidDatasetError(f"the upload holds '{label}/{name}' twice") from None


def _images(archive: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, tuple[str, str]]]:
    """The entries that are wanted, with their class and their name in it."""
    entries = [entry for entry in plain_entries(archive) if len(entry.parts) > 1]
    folders = [entry.parts[:-1] for entry in entries]
    around = len([*takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))])
    if around and all(len(folder) == around for folder in folders):
        around -= 1  # one class alone
    chosen = []
    for info, parts in entries:
        inside = parts[around:]
        if len(inside) > 2:
            raise InvalidDatasetError(
                f"the upload holds {'/'.join(parts)!r}, deeper than LABEL/IMAGE; lay it out as one "
                "folder a class, full of image files"
            )
        if len(inside) == 2:
            chosen.append((info, (inside[0], inside[1])))
    if not chosen:
        raise InvalidDatasetError(
            "the upload holds no images in class folders; lay it out as LABEL/IMAGE.png, or send "
            "an .npz file with the arrays images and labels"
        )
    return chosen
