from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fend.datasets import InvalidDatasetError, MissingDatasetError, folder, load
from fend.images import DecodeLimits, InputSpec


class TestFolder:
    def write(self, path: Path, pixels: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)

    def test_grey_images_in_class_folders(self, tmp_path: Path) -> None:
        for name, value in (("dog/b.png", 3), ("cat/z.png", 2), ("cat/a.png", 1)):
            self.write(tmp_path / name, np.full((4, 5), value))
        (tmp_path / ".DS_Store").touch()
        (tmp_path / "dog" / ".DS_Store").touch()
        (tmp_path / "dog" / "Thumbs.db").touch()
        (tmp_path / "cat" / "@eaDir").mkdir()
        (tmp_path / "$RECYCLE.BIN").mkdir()
        (tmp_path / "README").touch()
        images = load(f"folder:{tmp_path}", None)
        assert images.label_names == ("cat", "dog")
        assert images.labels.tolist() == [0, 0, 1]
        assert images.images.shape == (3, 1, 4, 5)
        assert images.images[:, 0, 0, 0].tolist() == [1, 2, 3]

    def test_every_8_bit_value_is_kept(self, tmp_path: Path) -> None:
        colours = np.arange(16 * 16 * 3).reshape(16, 16, 3) % 256
        self.write(tmp_path / "a" / "1.png", colours)
        self.write(tmp_path / "a" / "2.png", np.arange(256).reshape(16, 16))
        images = folder.load(tmp_path).images
        assert np.array_equal(images[0].numpy(), colours.transpose(2, 0, 1))
        assert np.array_equal(images[1, 2].numpy(), np.arange(256).reshape(16, 16))

    def test_a_grey_image_first_does_not_make_the_others_grey(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a" / "1.png", np.full((4, 4), 7))
        self.write(tmp_path / "a" / "2.png", np.full((4, 4, 3), (10, 20, 30)))
        images = folder.load(tmp_path).images
        assert images[:, :, 0, 0].tolist() == [[7, 7, 7], [10, 20, 30]]

    def test_numbers_are_in_order_of_value(self, tmp_path: Path) -> None:
        for name in ("10", "9", "1"):
            for file in ("10", "2"):
                self.write(tmp_path / name / f"{file}.png", np.full((2, 2), int(file)))
        images = folder.load(tmp_path)
        assert images.label_names == ("1", "9", "10")
        assert images.images[:, 0, 0, 0].tolist() == [2, 10] * 3

    def test_input_spec_brings_all_to_one_size(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a" / "1.png", np.full((4, 4, 3), 255))
        self.write(tmp_path / "a" / "2.png", np.full((9, 9), 255))
        spec = InputSpec(channels=1, height_px=8, width_px=8)
        images = load(f"folder:{tmp_path}", None, spec).images
        assert images.shape == (2, 1, 8, 8)
        assert int(images.min()) == 255

    def test_without_input_spec_sizes_must_agree(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a" / "1.png", np.zeros((4, 4)))
        self.write(tmp_path / "a" / "2.png", np.zeros((4, 5)))
        with pytest.raises(InvalidDatasetError, match=r"2\.png.*\(4, 5\).*one size"):
            folder.load(tmp_path)

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(MissingDatasetError, match="there is no folder"):
            load(f"folder:{tmp_path / 'nowhere'}", None)

    def test_images_outside_of_class_folders(self, tmp_path: Path) -> None:
        self.write(tmp_path / "1.png", np.zeros((4, 4)))
        with pytest.raises(InvalidDatasetError, match="LABEL/IMAGE"):
            folder.load(tmp_path)

    def test_file_that_is_no_image_is_named(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a" / "1.png", np.zeros((4, 4)))
        (tmp_path / "a" / "notes.txt").write_text("not an image")
        with pytest.raises(InvalidDatasetError, match=r"notes\.txt cannot be used"):
            folder.load(tmp_path)

    def test_folder_inside_a_class_folder_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a" / "deeper").mkdir(parents=True)
        with pytest.raises(InvalidDatasetError, match="deeper cannot be used"):
            folder.load(tmp_path)

    def test_too_large_a_set_is_refused(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a" / "1.png", np.zeros((100, 100)))
        with pytest.raises(InvalidDatasetError, match="limit is 1000"):
            folder.load(tmp_path, max_total_bytes=1000)

    def test_too_large_a_file_is_refused(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a" / "1.png", np.zeros((100, 100)))
        with pytest.raises(InvalidDatasetError, match=r"1\.png cannot be used"):
            folder.load(tmp_path, limits=DecodeLimits(max_pixels=100))
