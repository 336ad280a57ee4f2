import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fend.datasets import InvalidDatasetError, MissingDatasetError, load, npz


class TestNpz:
    @pytest.mark.parametrize("shape", [(4, 5, 6), (4, 1, 5, 6), (4, 5, 6, 1)])
    def test_grey_layouts(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        pixels = np.arange(4 * 5 * 6, dtype=np.uint8)
        np.savez(tmp_path / "a.npz", images=pixels.reshape(shape), labels=np.array([0, 1, 2, 1]))
        images = load(f"npz:{tmp_path / 'a.npz'}", None)
        assert np.array_equal(images.images.numpy(), pixels.reshape(4, 1, 5, 6))
        assert images.labels.tolist() == [0, 1, 2, 1]
        assert images.label_names == ("0", "1", "2")

    def test_colour_layouts_give_the_same_set(self, tmp_path: Path) -> None:
        pixels = np.arange(2 * 3 * 8 * 9, dtype=np.uint8).reshape(2, 3, 8, 9)
        labels = np.array([1, 0], dtype=np.uint8)
        np.savez_compressed(tmp_path / "nchw.npz", images=pixels, labels=labels)
        np.savez(tmp_path / "nhwc.npz", images=pixels.transpose(0, 2, 3, 1), labels=labels)
        images = npz.load(tmp_path / "nchw.npz")
        assert images.images.shape == (2, 3, 8, 9)
        assert images.digest == npz.load(tmp_path / "nhwc.npz").digest

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats_are_rounded_to_8_bits(self, tmp_path: Path, dtype: type) -> None:
        pixels: np.ndarray = np.array([[[0.0, 0.2, 0.5, 1.0]]], dtype=dtype)
        np.savez(tmp_path / "a.npz", images=pixels, labels=np.array([0]))
        assert npz.load(tmp_path / "a.npz").images.flatten().tolist() == [0, 51, 128, 255]

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, bool])
    def test_one_hot_labels(self, tmp_path: Path, dtype: type) -> None:
        one_hot = np.eye(4, dtype=dtype)[[2, 0, 2]]
        images = np.zeros((3, 4, 4), np.uint8)
        np.savez(tmp_path / "a.npz", images=images, labels=one_hot)
        read = npz.load(tmp_path / "a.npz")
        assert (read.labels.tolist(), read.label_names) == ([2, 0, 2], ("0", "1", "2", "3"))
        np.savez(tmp_path / "b.npz", images=images, labels=np.array([[2], [0], [2]]))
        read = npz.load(tmp_path / "b.npz")
        assert (read.labels.tolist(), read.label_names) == ([2, 0, 2], ("0", "1", "2"))

    def test_label_names(self, tmp_path: Path) -> None:
        np.savez(
            tmp_path / "a.npz",
            images=np.zeros((2, 4, 4), dtype=np.uint8),
            labels=np.array([0, 1]),
            label_names=np.array(["cat", "dog", "cow"]),
        )
        assert npz.load(tmp_path / "a.npz").label_names == ("cat", "dog", "cow")

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"labels": np.zeros(2, int)}, "no array called 'images'"),
            ({"images": np.zeros((2, 4, 4), np.uint8)}, "no array called 'labels'"),
            ({"images": np.zeros((4, 4), np.uint8)}, r"images must be \(N, H, W\)"),
            ({"images": np.zeros((2, 4, 4, 5), np.uint8)}, "no axis of 1 or 3 channels"),
            ({"images": np.zeros((2, 3, 4, 3), np.uint8)}, "in two ways"),
            ({"images": np.zeros((2, 4, 4), np.int64)}, "must be uint8, or float"),
            ({"images": np.full((2, 4, 4), 255.0)}, "save 0..255 as uint8"),
            ({"images": np.full((2, 4, 4), -0.1)}, "must lie in"),
            ({"images": np.full((2, 4, 4), np.nan)}, "NaN"),
            ({"images": np.full((2, 4, 4), np.inf)}, "infinite"),
            ({"images": np.zeros((0, 4, 4), np.uint8), "labels": np.zeros(0, int)}, "empty"),
            ({"images": np.zeros((0, 4, 4)), "labels": np.zeros(0, int)}, "empty"),
            ({"labels": np.zeros(3, int)}, "2 images need"),
            ({"labels": np.zeros(2)}, "whole numbers"),
            ({"labels": np.zeros((2, 1))}, "whole numbers"),
            ({"labels": np.zeros((2, 1, 1), int)}, "whole numbers"),
            ({"labels": np.zeros((2, 3), int)}, "exactly one 1"),
            ({"labels": np.ones((2, 3), int)}, "exactly one 1"),
            ({"labels": np.array([[0.9, 0.1], [0.0, 1.0]])}, "exactly one 1"),
            ({"labels": np.array([[0, 2], [1, 0]])}, "exactly one 1"),
            ({"labels": np.eye(2), "label_names": np.array(["a", "b", "c"])}, "2 columns"),
            ({"label_names": np.array(["a", "a"])}, "comes twice"),
            ({"labels": np.array([0, -1])}, "0..9999"),
            ({"labels": np.array([0, 2**62])}, "0..9999"),
            ({"labels": np.array([0, 2]), "label_names": np.array(["a", "b"])}, "0..1"),
            ({"label_names": np.array([1, 2])}, "label_names must be texts"),
            ({"groups": np.array([0.5, 1])}, "groups must be whole numbers"),
            ({"groups": np.array([0, 1, 2])}, "groups must have a number for each of the 2 images"),
            ({"label_names": np.array(["a", None], dtype=object)}, "Python objects"),
            ({"images": np.array([[[None]]], dtype=object)}, "Python objects"),
        ],
    )
    def test_wrong_arrays(self, tmp_path, arrays, message):
        good = {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(2, int)}
        if message.startswith("no array"):
            good = {}
        np.savez(tmp_path / "a.npz", **(good | arrays))
        with pytest.raises(InvalidDatasetError, match=message) as caught:
            load(f"npz:{tmp_path / 'a.npz'}", None)
        assert caught.value.code == "dataset_invalid"

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(MissingDatasetError, match="there is no file"):
            npz.load(tmp_path / "a.npz")

    def test_array_beyond_the_limit_is_refused_by_its_declared_size(self, tmp_path: Path) -> None:
        np.savez_compressed(
            tmp_path / "a.npz", images=np.zeros((2, 999, 999), np.uint8), labels=np.zeros(2, int)
        )
        assert (tmp_path / "a.npz").stat().st_size < 10_000
        with pytest.raises(InvalidDatasetError, match="the limit is 1000000"):
            npz.load(tmp_path / "a.npz", max_array_bytes=1_000_000)

    def write_member(self, path: Path, shape: str, data: bytes = b"") -> None:
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(
                "images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data
            )

    @pytest.mark.parametrize("shape", ["(1099511627776, 1024, 1024)", "(2, 4, 5)", "(2, 4, -4)"])
    def test_header_that_promises_other_bytes_than_there_are(self, tmp_path, shape):
        self.write_member(tmp_path / "a.npz", shape, bytes(32))
        with pytest.raises(InvalidDatasetError, match="its header promises"):
            npz.load(tmp_path / "a.npz")

    @pytest.mark.parametrize(
        "shape", ["(" * 400, "-" * 500 + "1", "[" * 90 + "]" * 90, "1" * 2000, "'a'", "None"]
    )
    def test_hostile_header(self, tmp_path: Path, shape: str) -> None:
        self.write_member(tmp_path / "a.npz", shape, bytes(32))
        with pytest.raises(InvalidDatasetError):
            npz.load(tmp_path / "a.npz")

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_compression_that_numpy_does_not_write(self, tmp_path: Path, method: int) -> None:
        with zipfile.ZipFile(tmp_path / "a.npz", "w", compression=method) as archive:
            archive.writestr("images.npy", b"x")
        with pytest.raises(InvalidDatasetError, match="not compressed as"):
            npz.load(tmp_path / "a.npz")

    @pytest.mark.parametrize("cut", [0, 30, -40])
    def test_damaged_file(self, tmp_path: Path, cut: int) -> None:
        np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.zeros(2, int))
        data = (tmp_path / "a.npz").read_bytes()[:cut]
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(InvalidDatasetError, match=r"not a readable \.npz"):
            npz.load(tmp_path / "a.npz")

    def test_flipped_bytes_never_escape_as_another_error(self, tmp_path: Path) -> None:
        np.savez_compressed(
            tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.zeros(2, int)
        )
        good = (tmp_path / "a.npz").read_bytes()
        refused = 0
        for position in range(len(good)):
            damaged = bytearray(good)
            damaged[position] ^= 0xFF
            (tmp_path / "a.npz").write_bytes(damaged)
            try:
                npz.load(tmp_path / "a.npz")
            except InvalidDatasetError:
                refused += 1
        assert refused > len(good) // 2
