import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from refusals import code

from fend.datasets import load, mnist
from fend.errors import Invalid


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


class TestMnist:
    IMAGES = "t10k-images-idx3-ubyte"
    LABELS = "t10k-labels-idx1-ubyte"

    def write(
        self, data_dir: Path, images: bytes, labels: bytes, *, gzipped: bool = False
    ) -> dict[str, str]:
        folder = data_dir / "MNIST" / "raw"
        folder.mkdir(parents=True)
        for name, data in ((self.IMAGES, images), (self.LABELS, labels)):
            if gzipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)
        return {self.IMAGES: md5(images), self.LABELS: md5(labels)}

    @pytest.mark.parametrize("gzipped", [False, True])
    def test_reads_idx_files(self, tmp_path: Path, gzipped: bool) -> None:
        pixels = np.arange(3 * 28 * 28).reshape(3, 28, 28) % 256
        md5s = self.write(tmp_path, idx(pixels), idx(np.array([7, 2, 1])), gzipped=gzipped)
        images = mnist.load("test", tmp_path, md5s)
        assert images.name == "mnist:test"
        assert images.images.shape == (3, 1, 28, 28)
        assert np.array_equal(images.images[:, 0].numpy(), pixels)
        assert images.labels.tolist() == [7, 2, 1]
        assert images.label_names == tuple("0123456789")

    def test_only_the_published_files_are_taken(self, tmp_path: Path) -> None:
        self.write(tmp_path, idx(np.zeros((2, 28, 28))), idx(np.zeros(2)))
        with pytest.raises(
            Invalid, match="not the published file", check=code("dataset_corrupt")
        ) as caught:
            load("mnist:test", tmp_path)
        assert caught.value.code == "dataset_corrupt"

    @pytest.mark.parametrize(
        ("images", "labels", "message"),
        [
            (idx(np.zeros((2, 28, 28)))[:-1], idx(np.zeros(2)), "header promises"),
            (idx(np.zeros((2, 28, 28))) + b"\0", idx(np.zeros(2)), "header promises"),
            (idx(np.zeros(2)), idx(np.zeros(2)), "not an idx file"),
            (bytes([0, 0, 8, 3, 0]), idx(np.zeros(2)), "not an idx file"),
            (b"", idx(np.zeros(2)), "not an idx file"),
            (b"<!DOCTYPE html><html>404", idx(np.zeros(2)), "not an idx file"),
            (idx(np.zeros((2, 28, 28))), idx(np.zeros(3)), "2 images but .* 3 labels"),
        ],
    )
    def test_damaged_files(self, tmp_path, images, labels, message):
        md5s = self.write(tmp_path, images, labels)
        with pytest.raises(Invalid, match=message, check=code("dataset_corrupt")):
            mnist.load("test", tmp_path, md5s)

    @pytest.mark.parametrize("data", [b"no gzip", gzip.compress(idx(np.zeros(99)))[:-12]])
    def test_damaged_gzip(self, tmp_path: Path, data: bytes) -> None:
        md5s = self.write(tmp_path, idx(np.zeros((2, 28, 28))), idx(np.zeros(2)), gzipped=True)
        (tmp_path / "MNIST" / "raw" / f"{self.LABELS}.gz").write_bytes(data)
        with pytest.raises(Invalid, match="cannot be unpacked", check=code("dataset_corrupt")):
            mnist.load("test", tmp_path, md5s)

    def test_gzip_bomb_is_not_unpacked_whole(self, tmp_path: Path) -> None:
        md5s = self.write(tmp_path, bytes(2**26 + 1), idx(np.zeros(2)), gzipped=True)
        with pytest.raises(Invalid, match="unpacks to more than", check=code("dataset_corrupt")):
            mnist.load("test", tmp_path, md5s)
