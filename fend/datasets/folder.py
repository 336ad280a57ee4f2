"""The caller's own images: one folder a class, or a CSV file of paths and labels."""

import csv
from pathlib import Path

from fend.datasets.archives import is_left_behind
from fend.datasets.base import ImageSet, InvalidDatasetError, MissingDatasetError
from fend.datasets.pictures import (
    MAX_TOTAL_BYTES,
    Pictures,
    decoded,
    of_files,
    sorted_labels,
)
from fend.images import DEFAULT_LIMITS, DecodeLimits, InputSpec

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "class_name", "labels", "classid", "target")


def load(
    path: Path,
    input_spec: InputSpec | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
    max_total_bytes: int = MAX_TOTAL_BYTES,
) -> ImageSet:
    """The pictures of every class folder, decoded in memory; see `class_folders`, `decoded`."""
    pictures = class_folders(path)
    return decoded(pictures, input_spec, limits=limits, max_total_bytes=max_total_bytes)


def class_folders(path: Path) -> Pictures:
    """The pictures of every class folder.

    Classes are in the order of their names, numbers by value; images within a class likewise. What
    file managers leave, hidden files and files beside the class folders are passed over.

    Raises:
        MissingDatasetError: when there is no such folder.
        InvalidDatasetError: when there are no class folders, or one without images.
    """
    if not path.is_dir():
        raise MissingDatasetError(f"there is no folder {path}")
    folders = [entry for entry in _visible(path) if entry.is_dir()]
    inside = [_visible(entry) for entry in folders]
    if not any(inside):
        raise InvalidDatasetError(
            f"{path} holds no images in class folders; lay it out as {path}/LABEL/IMAGE.png"
        )
    empty = [entry.name for entry, found in zip(folders, inside, strict=True) if not found]
    if empty:
        raise InvalidDatasetError(
            f"{path}: the class folder {empty[0]} holds no image; put some there, or delete it"
        )
    files = [(file, label) for label, found in enumerate(inside) for file in found]
    return of_files(f"folder:{path.name}", path, files, tuple(entry.name for entry in folders))


def listed(path: Path) -> Pictures:
    """The pictures that a CSV file lists: a column of paths, which begin at the file's folder, and
    one of labels, named in its first line.

    Raises:
        MissingDatasetError: when there is no such file.
        InvalidDatasetError: no such columns, a line without a label, or no line at all.
    """
    if not path.is_file():
        raise MissingDatasetError(f"there is no file {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            rows = list(csv.reader(file, delimiter=delimiter, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidDatasetError(f"{path} is no CSV file: {error}") from error
    header = [name.strip().casefold() for name in rows[0]] if rows else []
    place = next((header.index(name) for name in PATH_COLUMNS if name in header), None)
    of_label = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
    if place is None or of_label is None:
        raise InvalidDatasetError(
            f"{path}: its first line names the columns {', '.join(header) or '(none)'}; one of "
            f"{', '.join(PATH_COLUMNS)} is needed, and one of {', '.join(LABEL_COLUMNS)}"
        )
    found: list[tuple[Path, str]] = []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(header) or not row[place].strip() or not row[of_label].strip():
            raise InvalidDatasetError(f"{path}, line {number}: no path, or no label")
        found.append((path.parent / row[place].strip(), row[of_label].strip()))
    if not found:
        raise InvalidDatasetError(f"{path} lists no image")
    names = sorted_labels(label for _, label in found)
    places = {name: number for number, name in enumerate(names)}
    files = [(file, places[label]) for file, label in found]
    return of_files(f"csv:{path.name}", path, files, names)


def _visible(folder: Path) -> list[Path]:
    entries = [entry for entry in folder.iterdir() if not is_left_behind(entry.name)]
    if all(entry.stem.isdecimal() for entry in entries):
        return sorted(entries, key=lambda entry: (int(entry.stem), entry.name))
    return sorted(entries, key=lambda entry: entry.name)
