"""Uploaded files: what is kept of good ones, and how those that would do harm are refused."""

import io
import json
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fend.errors import FendError, Invalid, RemoteError
from fend.images import InputSpec
from service.audits.uploads.upload_work import FILE, UploadTask, run
from service.audits.uploads.uploaded_set import UploadedSet


def code(name: str) -> Callable[[FendError], bool]:
    return lambda error: error.code == name


NOW = datetime(2026, 1, 2, tzinfo=UTC)
DIGITS = tuple("0123456789")
MNIST = InputSpec(channels=1, height_px=28, width_px=28)


def png(level: int, size: tuple[int, int] = (28, 28)) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, level).save(file, format="PNG")
    return file.getvalue()


def zipped(entries: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def work(folder: Path, data: bytes, **changes: Any) -> dict[str, Any]:
    """What the worker says of a file."""
    (folder / FILE).write_bytes(data)
    task = UploadTask(
        folder=folder, input_spec=None, labels=None, max_files=20, max_bytes=100_000,
        max_file_bytes=10_000, max_file_pixels=10_000, now=NOW,
    ).model_copy(update=changes)  # fmt: skip
    said: list[bytes] = []
    try:
        run(task.model_dump_json(), said.append)
    except RemoteError as error:
        return {"kind": "refused", "code": error.code, "message": str(error)}
    [line] = said
    return json.loads(line)


def refusal(folder: Path, data: bytes, **changes: Any) -> str:
    """Why the worker refuses a file; it leaves no set, and names no folder of the service."""
    result = work(folder, data, **changes)
    assert result["kind"] == "refused", result
    assert result["code"] == "dataset_invalid"
    assert str(folder) not in result["message"]
    assert not (folder / "kept").exists()
    return result["message"]


FOLDERS = {"3/b.png": png(30), "3/a.png": png(20), "7/c.png": png(70)}


@pytest.mark.parametrize("prefix", ["", "my digits/"])
def test_class_folders_are_read_with_or_without_one_around_them(tmp_path, prefix):
    extras = {"__MACOSX/._a": b"x", ".DS_Store": b"x", "3/.hidden": b"x", "README.txt": b"hello"}
    entries = {prefix + name: data for name, data in (FOLDERS | extras).items()}
    result = work(tmp_path, zipped(entries))
    assert result["kind"] == "kept", result
    summary = result["summary"]
    assert (summary["images"], summary["images_by_label"]) == (3, {"3": 2, "7": 1})

    image_set = UploadedSet.read(tmp_path / "kept").load()
    assert image_set.name == f"upload:{summary['id']}"
    assert image_set.digest == summary["digest"]
    assert image_set.images[:, 0, 0, 0].tolist() == [20, 30, 70]
    assert image_set.labels.tolist() == [0, 0, 1]


def test_arrays_are_read(tmp_path: Path) -> None:
    images = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4)
    result = work(tmp_path, npz(images=images, labels=np.array([0, 1, 2, 1, 0])))
    assert result["kind"] == "kept", result
    kept = UploadedSet.read(tmp_path / "kept").load()
    assert kept.images[:, 0].numpy().tolist() == images.tolist()
    assert kept.label_names == ("0", "1", "2")


def test_for_a_model_pictures_are_resized_and_labels_are_its_own(tmp_path: Path) -> None:
    data = zipped({"7/large.png": png(255, (56, 56)), "3/small.png": png(255)})
    result = work(tmp_path, data, input_spec=MNIST, labels=DIGITS)
    assert result["kind"] == "kept", result
    kept = UploadedSet.read(tmp_path / "kept").load()
    assert tuple(kept.images.shape) == (2, 1, 28, 28)
    assert (kept.label_names, kept.labels.tolist()) == (DIGITS, [3, 7])


def test_the_same_images_have_the_same_id_however_they_came(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    for folder in (first, second, third):
        folder.mkdir()
    images = np.stack([np.full((28, 28), level, np.uint8) for level in (20, 30, 70)])
    names = np.array(["3", "7"])
    one = work(first, zipped(FOLDERS))["summary"]["id"]
    arrays = npz(images=images, labels=np.array([0, 0, 1]), label_names=names)
    assert work(second, arrays)["summary"]["id"] == one
    other = npz(images=images, labels=np.array([0, 1, 1]), label_names=names)
    assert work(third, other)["summary"]["id"] != one


def test_a_set_that_changed_on_disk_is_not_used(tmp_path: Path) -> None:
    work(tmp_path, zipped(FOLDERS))
    kept = UploadedSet.read(tmp_path / "kept")
    [file] = kept.folder.glob("*.npz")
    np.savez(file, images=np.zeros((1, 2, 2), np.uint8), labels=[0])
    with pytest.raises(Invalid, match="changed on disk", check=code("dataset_corrupt")):
        kept.load()


@pytest.mark.parametrize(
    "name",
    [
        "../3/a.png",
        "/3/a.png",
        "3/../../a.png",
        "..\\3\\a.png",
        "\\\\host\\share\\a.png",
        "C:\\3\\a.png",
        "c:3/a.png",
        "3/\x1b[2J",
        "__MACOSX/../../a.png",
    ],
)
def test_paths_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    assert "no path inside" in refusal(folder, zipped({name: png(1)}))
    assert not list(tmp_path.glob("*.png"))


def written(*names: str, **fields: Any) -> bytes:
    """Two pictures under `names`, which are written as they are; `fields` of their entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, name in enumerate(names):
            info = zipfile.ZipInfo("x")
            info.filename = name
            for field, value in fields.items():
                setattr(info, field, value)
            archive.writestr(info, b"" if name.endswith(("/", "\\")) else png(number))
    return file.getvalue()


@pytest.mark.parametrize(
    "names",
    [
        ("3\\a.png", "7\\b.png"),
        ("set\\", "set\\3\\", "set\\3\\a.png", "set\\7\\b.png"),
        ("set/3\\a.png", "set/7\\b.png"),
        ("./3/a.png", "./7/b.png"),
        ("./", "3//a.png", "7/./b.png"),
        ("home/me/set/3/a.png", "home/me/set/7/b.png", "home/me/set/README.txt"),
        ("3/", "3/a", "7/", "7/b.JPG"),
        ("3/a.jpeg", "7/b.bin"),
        ("3/\u30b9 9.41.00\u202fAM.png", "7/\u0434.png"),
        ("3/a.png", "7/b.png", *(f"3/{left}" for left in (
            "Thumbs.db", "THUMBS.DB", "desktop.ini", "Desktop.ini", "ehthumbs.db", "Picasa.ini",
            "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", ".directory", "._a.png", ".DS_Store", "Icon\r",
        )), "$RECYCLE.BIN/x/y/z.png", "System Volume Information/IndexerVolumeGuid",
         ".Spotlight-V100/Store-V2/a/b", ".git/objects/ab/cd", "__MACOSX/3/._a.png"),
    ],
)  # fmt: skip
def test_a_set_is_read_as_any_tool_packs_it(tmp_path: Path, names: tuple[str, ...]) -> None:
    result = work(tmp_path, written(*names), max_files=30)
    assert result["kind"] == "kept", result
    assert result["summary"]["images_by_label"] == {"3": 1, "7": 1}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("katze-ä".encode(), "katze-ä"),  # macOS: UTF-8, and does not say so
        ("katze-a\u0308".encode(), "katze-ä"),  # in the form of its file system
        ("katze-ä".encode("cp437"), "katze-ä"),
        ("表".encode("shift_jis"), "ò_"),  # its second byte is a backslash
    ],
)
def test_names_that_are_not_said_to_be_in_unicode(tmp_path: Path, name: bytes, kept: str) -> None:
    mark = b"#" * len(name)
    data = written(f"{mark.decode()}/a.png", f"{mark.decode()}/b.png", flag_bits=0)
    result = work(tmp_path, data.replace(mark, name))
    assert result["kind"] == "kept", result
    assert result["summary"]["images_by_label"] == {kept: 2}


def test_the_unicode_name_beside_another_one_counts(tmp_path: Path) -> None:
    field = b"\x01" + struct.pack("<L", zlib.crc32(b"?/a.png")) + "é/a.png".encode()
    extra = struct.pack("<HH", 0x7075, len(field)) + field
    result = work(tmp_path, written("?/a.png", extra=extra))
    assert result["summary"]["images_by_label"] == {"é": 1}


def test_a_name_that_only_says_to_be_in_unicode_is_refused(tmp_path: Path) -> None:
    data = written("3/é#.png").replace("é".encode(), b"\xff\xfe")
    assert "not UTF-8, though it says so" in refusal(tmp_path, data)


def test_zip64_and_sizes_behind_the_data_are_read(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

    file = Pipe()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("3/a.png", "7/b.png"):
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as entry:
                entry.write(png(len(name)))
    data = file.getvalue()
    start = data.index(b"PK\x01\x02")
    length = data.index(b"PK\x05\x06") - start
    end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, length, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + length, 1)
    last = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0
    )
    result = work(tmp_path, data[: start + length] + end + locator + last)
    assert result["kind"] == "kept", result
    assert result["summary"]["images"] == 2


@pytest.mark.parametrize(
    ("method", "said"), [(9, "Deflate64"), (12, "bzip2"), (14, "LZMA"), (93, "Zstandard"), (5, "5")]
)
def test_other_compression_is_told_by_name(tmp_path: Path, method: int, said: str) -> None:
    data = bytearray(written("3/a.png"))
    data[data.index(b"PK\x01\x02") + 10] = method
    assert f"compressed with {said}" in refusal(tmp_path, bytes(data)).replace("method ", "")


def test_links_and_other_odd_entries_are_refused(tmp_path: Path) -> None:
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
        info = zipfile.ZipInfo("3/a.png")
        info.external_attr = (kind | 0o777) << 16
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(info, "/etc/passwd")
        folder = tmp_path / str(kind)
        folder.mkdir()
        assert "a link or no plain file" in refusal(folder, file.getvalue())


def test_what_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = zipped({"3/a.png": bytes(200_000)})
    assert len(bomb) < 1000
    assert "unpacks to 200000 bytes" in refusal(tmp_path, bomb)
    assert not list(tmp_path.glob("unpacked/*/*"))


def test_what_lies_about_its_size_does_no_harm(tmp_path: Path) -> None:
    """The declared size is what is read, whatever is in the data."""
    bomb = bytearray(zipped({"3/a.png": bytes(3_000_000)}))
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<L", bomb, bomb.index(signature) + place, 5_000)
    refusal(tmp_path, bytes(bomb))
    assert all(path.stat().st_size <= 5_000 for path in tmp_path.glob("unpacked/*/*"))


def test_too_many_files_are_refused_before_their_list_is_read(tmp_path: Path) -> None:
    listed = zipped({f"3/{number}.png": b"" for number in range(21)})
    assert "21 images, at most 20" in refusal(tmp_path, listed)
    long = zipped({f"3/{number}-{'x' * 200}.png": b"" for number in range(100)})
    assert "too many files" in refusal(tmp_path, long)


def test_pictures_larger_than_the_limit_are_refused_by_name(tmp_path: Path) -> None:
    data = zipped({"3/fine.png": png(1), "3/huge.png": png(1, (200, 200))})
    assert refusal(tmp_path, data).startswith("3/huge.png cannot be used:")
    decoded = zipped({f"3/{number}.png": png(1, (90, 90)) for number in range(20)})
    (tmp_path / "more").mkdir()
    assert "bytes decoded, the limit is 100000" in refusal(tmp_path / "more", decoded)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a zip file"),
        (b"PK\x05\x06", "not a zip file"),
        (zipped({"3/a.png": png(1)})[:-30], "not a zip file"),
        (zipped({}), "no images in class folders"),
        (zipped({"a.png": png(1)}), "no images in class folders"),
        (zipped({"3/x/a.png": png(1), "7/a.png": png(1)}), "deeper than LABEL/IMAGE"),
        (zipped({"3/a.png": b"<svg/>"}), "3/a.png cannot be used"),
        (zipped({"3/a.png": png(1), "3/b.png": png(1, (9, 9))}), "make all of one size"),
        (npz(images=np.zeros((2, 4, 4), np.uint8)), "no array called 'labels'"),
        (npz(images=np.zeros((2, 4, 4), np.uint8), labels=[0]), "2 images need"),
        (npz(images=np.array([{}] * 2), labels=[0, 1]), "Python objects"),
        (npz(images=np.zeros((30, 4, 4), np.uint8), labels=[0] * 30), "30 images, at most 20"),
        (npz(images=np.zeros((2, 400, 400), np.uint8), labels=[0, 1]), "the limit is 100000"),
    ],
)
def test_what_is_no_data_set_is_refused_with_the_reason(tmp_path, data, says):
    assert says in refusal(tmp_path, data)


def test_classes_that_the_model_does_not_know_are_named(tmp_path: Path) -> None:
    assert "cat" in refusal(tmp_path, zipped({"cat/a.png": png(1)}), labels=DIGITS)


def test_an_entry_that_comes_twice_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("3/a.png", png(1))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("3/a.png", png(2))
    assert "'3/a.png' twice" in refusal(tmp_path, file.getvalue())


def test_encrypted_entries_are_refused(tmp_path: Path) -> None:
    data = bytearray(zipped({"3/a.png": png(1)}))
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + place] |= 1
    assert "encrypted" in refusal(tmp_path, bytes(data))
