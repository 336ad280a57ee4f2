"""Pictures in parquet files, with the columns that data sets of the Hugging Face hub have."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fend.datasets.base import InvalidDatasetError, MissingDatasetError
from fend.datasets.pictures import Picture, Pictures, changed, read, sorted_labels
from fend.errors import extra_missing

IMAGE_COLUMNS = ("image", "img", "picture", "photo")
LABEL_COLUMNS = ("label", "labels", "class", "fine_label", "target")
_ROWS = 64
"""Rows that are in memory at a time."""


def rows_of(path: Path) -> Pictures:
    """The pictures of one parquet file, or of every one in a folder or that the path matches, such
    as data/train-*.parquet, in the order of their names.

    The image column holds a file's bytes, or {bytes, path}; a path begins at the parquet file's
    folder. The label column holds texts, or numbers whose names the file's metadata may have.

    Raises:
        MissingDatasetError: when there is no such file.
        InvalidDatasetError: no parquet, no such columns, no row, or a row without a label.
        Unavailable (`dependency_missing`): pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise extra_missing("parquet: needs pyarrow", "classifiers") from error
    if path.is_dir():
        shards = sorted(path.rglob("*.parquet"))
    else:
        shards = [path] if path.is_file() else sorted(path.parent.glob(path.name))
    if not shards:
        raise MissingDatasetError(f"there is no parquet file at {path}")
    labels: list[Any] = []
    try:
        image, of_label, names = _columns(shards[0], parquet.read_schema(shards[0]))
        for shard in shards:
            labels += parquet.read_table(shard, columns=[of_label])[of_label].to_pylist()
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise InvalidDatasetError(f"{path} is no parquet file of pictures: {error}") from error
    if not labels:
        raise InvalidDatasetError(f"{path} holds no image")
    if None in labels:
        raise InvalidDatasetError(f"{path}, row {labels.index(None)}: no label")
    if names is not None and all(isinstance(label, int) for label in labels):
        known = tuple(names)
        if not 0 <= min(labels) <= max(labels) < len(known):
            raise InvalidDatasetError(
                f"{path}: the labels go from {min(labels)} to {max(labels)}, and its metadata "
                f"names {len(known)}"
            )
        numbers = labels
    else:
        texts = [str(label) for label in labels]
        known = sorted_labels(texts)
        places = {name: number for number, name in enumerate(known)}
        numbers = [places[text] for text in texts]

    def each() -> Iterator[Picture]:
        row = 0
        for shard in shards:
            with parquet.ParquetFile(shard) as file:
                for batch in file.iter_batches(_ROWS, columns=[image]):
                    for held in batch.column(0).to_pylist():
                        read = partial(_bytes_of, held, shard.parent)
                        yield Picture(f"{path}, row {row}", numbers[row], read)
                        row += 1

    decided_by = [(str(shard), *changed(shard)) for shard in shards]
    return Pictures(f"parquet:{path.name}", str(path), len(numbers), each, known, decided_by)


def _columns(shard: Path, schema: Any) -> tuple[str, str, list[str] | None]:
    """The columns of images and labels, and the names of the labels."""
    said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features: dict[str, Any] = said.get("info", {}).get("features", {})

    def column(kind: str, usual: tuple[str, ...]) -> str | None:
        declared = [
            name for name, what in features.items()
            if isinstance(what, dict) and what.get("_type") == kind and name in schema.names
        ]  # fmt: skip
        return next((name for name in (*declared, *usual) if name in schema.names), None)

    image, label = column("Image", IMAGE_COLUMNS), column("ClassLabel", LABEL_COLUMNS)
    if image is None or label is None:
        missing = IMAGE_COLUMNS if image is None else LABEL_COLUMNS
        raise InvalidDatasetError(
            f"{shard} has the columns {', '.join(schema.names)}; of "
            f"{'images' if image is None else 'labels'} one is needed: {', '.join(missing)}"
        )
    return image, label, features.get(label, {}).get("names")


def _bytes_of(held: Any, folder: Path, most: int) -> bytes:
    """The file in a row, or beside it."""
    if isinstance(held, dict):
        if held.get("bytes") is None and held.get("path"):
            return read(folder / held["path"], most)
        held = held.get("bytes")
    if isinstance(held, bytes):
        return held[:most]
    raise OSError("it holds no bytes of an image")
