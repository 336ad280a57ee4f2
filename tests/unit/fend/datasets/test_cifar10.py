import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import code

from fend.datasets import ImageSet, MissingDatasetError, cifar10, load
from fend.errors import Invalid
from fend.images import InputSpec, decode


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def python2_string(text: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(text)) + text


def python2_batch(rows: np.ndarray, labels: list[int], dtype: bytes = b"u1") -> bytes:
    """A batch pickled as Python 2 and the numpy of its day did, which neither still does."""
    count, width = rows.shape
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
        + python2_string(b"b")
        + b"\x87R(K\x01"
        + struct.pack("<cHcHc", b"M", count, b"M", width, b"\x86")
        + b"cnumpy\ndtype\n"
        + python2_string(dtype)
        + b"K\x00K\x01\x87R(K\x03"
        + python2_string(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + python2_string(rows.astype(np.uint8).tobytes())
        + b"tb"
    )
    label_list = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return (
        b"\x80\x02}("
        + python2_string(b"data")
        + array
        + python2_string(b"labels")
        + label_list
        + b"u."
    )


class TestCifar10:
    def write(self, data_dir: Path, batches: dict[str, bytes]) -> dict[str, str]:
        folder = data_dir / "cifar-10-batches-py"
        folder.mkdir()
        for name, data in batches.items():
            (folder / name).write_bytes(data)
        return {name: md5(data) for name, data in batches.items()}

    def test_reads_the_batches_in_order(self, tmp_path: Path) -> None:
        rows = np.arange(10 * 3072).reshape(10, 3072) % 251
        md5s = self.write(
            tmp_path,
            {
                f"data_batch_{n + 1}": python2_batch(rows[2 * n : 2 * n + 2], [n, n + 5])
                for n in range(5)
            },
        )
        images = cifar10.load("train", tmp_path, md5s)
        assert images.images.shape == (10, 3, 32, 32)
        assert np.array_equal(images.images.numpy(), rows.reshape(10, 3, 32, 32))
        assert images.labels.tolist() == [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]
        assert images.label_names[images.labels[1]] == "dog"

    def test_nothing_is_unpickled_before_the_digest_holds(self, tmp_path: Path) -> None:
        self.write(tmp_path, {"test_batch": python2_batch(np.zeros((1, 3072)), [0])})
        with pytest.raises(Invalid, match="not the published file", check=code("dataset_corrupt")):
            load("cifar10:test", tmp_path)

    @pytest.mark.parametrize(
        "reference",
        [
            b"cpathlib\nPath.touch\ncpathlib\nPath\n",
            b"cos\nsystem\n",
            b"cbuiltins\nexec\n",
            b"cnumpy\nload\n",
            b"c_codecs\nencode\n",
        ],
    )
    def test_a_pickle_cannot_reach_any_code(self, tmp_path: Path, reference: bytes) -> None:
        marker = tmp_path / "marker"
        call = b"\x80\x02" + reference + python2_string(bytes(marker)) + b"\x85R."
        md5s = self.write(tmp_path, {"test_batch": call})
        with pytest.raises(Invalid, match="is not allowed here", check=code("dataset_corrupt")):
            cifar10.load("test", tmp_path, md5s)
        assert not marker.exists()

    @pytest.mark.parametrize(
        "batch",
        [
            b"",
            b"\x80\x02}.",
            b"\x80\x02].",
            b"\x80\x02N.",
            python2_batch(np.zeros((1, 3072)), [0])[:-2000],
            python2_batch(np.zeros((1, 3072)), [0], dtype=b"O8"),
            python2_batch(np.zeros((1, 3072)), [0, 1]),
            python2_batch(np.zeros((1, 100)), [0]),
        ],
    )
    def test_damaged_batches(self, tmp_path: Path, batch: bytes) -> None:
        md5s = self.write(tmp_path, {"test_batch": batch})
        with pytest.raises(Invalid, match="test_batch", check=code("dataset_corrupt")):
            cifar10.load("test", tmp_path, md5s)


def test_each_image_is_what_a_model_is_served_for_the_colour_picture(monkeypatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    pixels[0] = 0
    colour = ImageSet(
        "cifar10:test", torch.from_numpy(pixels), torch.tensor([3, 0, 9]), cifar10.LABEL_NAMES
    )
    monkeypatch.setattr(cifar10, "load", lambda *_: colour)
    grey = load("cifar10-grey:test", Path("anywhere"))
    assert grey.name == "cifar10-grey:test"
    assert grey.images.shape == (3, 1, 28, 28)
    assert grey.labels.tolist() == [3, 0, 9]
    assert grey.label_names == cifar10.LABEL_NAMES
    spec = InputSpec(channels=1, height_px=28, width_px=28)
    for index in range(3):
        file = io.BytesIO()
        Image.fromarray(pixels[index].transpose(1, 2, 0)).save(file, "PNG")
        served = decode(file.getvalue(), spec).pixels
        assert torch.equal(torch.as_tensor(served), grey.pixels(slice(index, index + 1))[0])


def test_what_is_missing_is_fetched_as_cifar10(tmp_path) -> None:
    with pytest.raises(MissingDatasetError, match="fend data fetch cifar10 "):
        load("cifar10-grey:train", tmp_path)
    with pytest.raises(MissingDatasetError, match="fend data fetch cifar10 fills"):
        load("cifar10-grey:train", None)
