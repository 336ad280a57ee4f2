"""Pictures that are files: listed, packed, broken, decoded once."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fend.datasets import ImageSet, InvalidDatasetError, MissingDatasetError, folder, load
from fend.datasets.pictures import decoded
from fend.errors import Unavailable
from fend.images import InputSpec

SPEC = InputSpec(channels=3, height_px=6, width_px=8, resize="crop")


def png(value: int, size: tuple[int, int] = (9, 7)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, dtype=np.uint8)).save(file, format="PNG")
    return file.getvalue()


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(value, (7 + value % 5, 9)))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Three cats and two dogs, of several sizes."""
    for number, name in enumerate(("cat/a", "cat/b", "cat/c", "dog/a", "dog/b"), start=1):
        write(tmp_path / "pets" / f"{name}.png", number)
    return tmp_path / "pets"


def values(images: ImageSet) -> list[int]:
    return [int(image[0, 3, 4]) for image in images.images]


@pytest.mark.parametrize("text", [
    "path,label\nx/1.png,dog\nx/2.png,cat\n\nx/3.png,dog\n",
    "ClassId;Width;Filename\ndog;9;x/1.png\ncat;9;x/2.png\ndog;9; x/3.png\n",
    "\ufefffile\tclass\nx/1.png\tdog\nx/2.png\tcat\nx/3.png\tdog\n",
])  # fmt: skip
def test_a_csv_file_lists_pictures_beside_it(tmp_path: Path, text: str) -> None:
    for number in (1, 2, 3):
        write(tmp_path / "x" / f"{number}.png", number)
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    images = load(f"csv:{tmp_path / 'list.csv'}", None, SPEC)
    assert images.label_names == ("cat", "dog")
    assert (images.labels.tolist(), values(images)) == ([1, 0, 1], [1, 2, 3])


@pytest.mark.parametrize(("text", "said"), [
    ("", r"columns \(none\)"),
    ("where,what\na.png,dog\n", "where, what; one of path, file.*one of label"),
    ("path,label\n", "lists no image"),
    ("path,label\na.png,dog\nb.png\n", "line 3: no path, or no label"),
    ("path,label\na.png,\n", "line 2: no path, or no label"),
    ("path,label\na.png,dog\n", "a.png cannot be used"),
])  # fmt: skip
def test_a_csv_file_that_lists_nothing_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InvalidDatasetError, match=said):
        load(f"csv:{tmp_path / 'list.csv'}", None, SPEC)


class TestParquet:
    def write(self, path: Path, columns: dict, features: dict | None = None) -> None:
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.table(columns)
        if features is not None:
            said = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": said})
        parquet.write_table(table, path)

    def test_shards_as_the_hub_has_them(self, tmp_path: Path) -> None:
        features = {
            "picture_of_it": {"_type": "Image"},
            "kind": {"_type": "ClassLabel", "names": ["dog", "cat", "cow"]},
        }
        (tmp_path / "beside.png").write_bytes(png(9))
        rows = [[(1, 0), (2, 1)], [(3, 1), (None, 0)]]
        for number, shard in enumerate(rows):
            pictures = [
                {"bytes": None, "path": "beside.png"} if value is None
                else {"bytes": png(value), "path": f"{value}.png"}
                for value, _ in shard
            ]  # fmt: skip
            columns = {"kind": [label for _, label in shard], "picture_of_it": pictures}
            self.write(tmp_path / f"train-0000{number}-of-00002.parquet", columns, features)
        for spec in (f"parquet:{tmp_path}", f"parquet:{tmp_path}/train-*.parquet"):
            images = load(spec, None, SPEC)
            assert images.label_names == ("dog", "cat", "cow")
            assert (images.labels.tolist(), values(images)) == ([0, 1, 1, 0], [1, 2, 3, 9])

    def test_bytes_and_texts(self, tmp_path: Path) -> None:
        columns = {"image": [png(4), png(5)], "label": ["10", "9"], "note": ["", ""]}
        self.write(tmp_path / "a.parquet", columns)
        images = load(f"parquet:{tmp_path / 'a.parquet'}", None, SPEC)
        assert images.label_names == ("9", "10")
        assert (images.labels.tolist(), values(images)) == ([1, 0], [4, 5])

    @pytest.mark.parametrize(("columns", "said"), [
        ({"image": [b""]}, "columns image; of labels one is needed"),
        ({"pixels": [b""], "label": [0]}, "columns pixels, label; of images one is needed"),
        ({"image": [b"", b""], "label": [0, None]}, "row 1: no label"),
        ({"image": [3], "label": [0]}, "row 0 cannot be used"),
    ])  # fmt: skip
    def test_other_columns_are_refused(self, tmp_path: Path, columns: dict, said: str) -> None:
        self.write(tmp_path / "a.parquet", columns)
        with pytest.raises(InvalidDatasetError, match=said):
            load(f"parquet:{tmp_path / 'a.parquet'}", None, SPEC)

    def test_no_parquet(self, tmp_path: Path) -> None:
        with pytest.raises(MissingDatasetError, match="no parquet file"):
            load(f"parquet:{tmp_path}", None, SPEC)
        (tmp_path / "a.parquet").write_text("PAR1 it is not")
        with pytest.raises(InvalidDatasetError, match="no parquet file of pictures"):
            load(f"parquet:{tmp_path}", None, SPEC)


def test_imagenette_is_called_as_imagenet_calls_it(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for wnid, value in (("n01440764", 1), ("n03888257", 2)):
            write(tmp_path / "imagenette2-320" / split / wnid / "a.JPEG", value)
    images = load("imagenette:test", tmp_path, SPEC)
    assert (images.name, images.label_names) == ("imagenette:test", ("tench", "parachute"))
    (tmp_path / "imagenette2-320" / "train" / "n0").mkdir()
    write(tmp_path / "imagenette2-320" / "train" / "n0" / "a.png", 3)
    with pytest.raises(InvalidDatasetError, match="n0, no class of imagenette"):
        load("imagenette:train", tmp_path, SPEC)
    with pytest.raises(MissingDatasetError, match="fend data fetch imagenette"):
        load("imagenette:train", tmp_path / "nowhere", SPEC)


class TestCache:
    def test_pictures_are_decoded_once(self, pets: Path, tmp_path: Path) -> None:
        told: list[str] = []
        first, again = (load(f"folder:{pets}", tmp_path, SPEC, tell=told.append) for _ in range(2))
        assert len(told) == 1
        assert "decoding 5 pictures" in told[0]
        assert first.digest == again.digest == folder.load(pets, SPEC).digest
        assert values(again) == [1, 2, 3, 4, 5]

    def test_another_file_or_input_is_decoded_anew(self, pets: Path, tmp_path: Path) -> None:
        load(f"folder:{pets}", tmp_path, SPEC)
        write(pets / "dog" / "b.png", 55)
        assert values(load(f"folder:{pets}", tmp_path, SPEC)) == [1, 2, 3, 4, 55]
        wider = SPEC.model_copy(update={"width_px": 10})
        assert load(f"folder:{pets}", tmp_path, wider).images.shape == (5, 3, 6, 10)

    def test_a_file_that_was_cut_is_not_believed(self, pets: Path, tmp_path: Path) -> None:
        load(f"folder:{pets}", tmp_path, SPEC)
        (kept,) = (tmp_path / "decoded").glob("*.u8")
        kept.write_bytes(kept.read_bytes()[:-1])
        assert values(load(f"folder:{pets}", tmp_path, SPEC)) == [1, 2, 3, 4, 5]

    def test_without_room_memory_does_where_it_can(self, pets: Path, tmp_path: Path) -> None:
        blocked = tmp_path / "file"
        blocked.touch()
        pictures = folder.class_folders(pets)
        assert values(decoded(pictures, SPEC, cache=blocked / "decoded")) == [1, 2, 3, 4, 5]
        with pytest.raises(Unavailable, match="make room") as caught:
            decoded(pictures, SPEC, cache=blocked / "decoded", max_total_bytes=100)
        assert caught.value.code == "cache_unwritable"


@pytest.mark.parametrize("cached", [True, False])
def test_bad_files_are_named_counted_and_passed_over_on_request(pets, tmp_path, cached):
    for name in "xyz":
        (pets / "cat" / f"{name}.png").write_bytes(png(7)[:40])
    data_dir = tmp_path if cached else None
    with pytest.raises(InvalidDatasetError, match=r"3 of 8 pictures cannot be used: .*x\.png.*;"):
        load(f"folder:{pets}", data_dir, SPEC)
    for _ in range(2):
        told: list[str] = []
        images = load(f"folder:{pets}", data_dir, SPEC, skip_bad=True, tell=told.append)
        assert (images.labels.tolist(), values(images)) == ([0, 0, 0, 1, 1], [1, 2, 3, 4, 5])
        assert "passed over: 3 of 8" in told[-1]
        assert "z.png" in told[-1]


def test_nothing_but_bad_files_is_refused_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"")
    with pytest.raises(InvalidDatasetError, match=r"a\.png cannot be used"):
        load(f"folder:{tmp_path}", None, SPEC, skip_bad=True)


def test_a_class_without_images_is_refused(pets: Path) -> None:
    (pets / "cow").mkdir()
    with pytest.raises(InvalidDatasetError, match="class folder cow holds no image"):
        load(f"folder:{pets}", None, SPEC)


def test_a_part_of_a_large_set_takes_no_memory() -> None:
    small = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1)
    large = small.expand(200, 3, 1024, 1024)  # 600 MB, if anybody copied it
    labels = torch.arange(200) % 2
    part = ImageSet("x", large, labels, ("a", "b")).subset(torch.arange(100, 200))
    again = part.subset(torch.tensor([7, 3])).relabelled(("b", "a"))
    assert again.images is large
    assert again.pixels(slice(None))[:, 0, 0, 0].mul(255).tolist() == [107, 103]
    assert again.labels.tolist() == [0, 0]
    copied = ImageSet("y", large[[107, 103]].clone(), again.labels, ("b", "a"))
    assert again.digest == copied.digest


IMAGENET = ("tench, Tinca tinca", "crane", "crane (2)", "Chain Saw", "horn", "French horn, horn")


@pytest.mark.parametrize(("name", "place"), [
    ("tench", 0), ("Tinca_tinca", 0), ("crane", 1), ("chain_saw", 3), ("chain saw, chainsaw", 3),
    ("French horn", 5), ("horn", 4),
])  # fmt: skip
def test_labels_are_found_as_people_write_them(name: str, place: int) -> None:
    images = ImageSet("x", torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]), (name,))
    assert images.relabelled(IMAGENET).labels.tolist() == [place]


def test_labels_that_nobody_knows_matter_only_where_there_are_images() -> None:
    pixels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    images = ImageSet("x", pixels, torch.tensor([0, 0]), ("tench", "unicorn"))
    assert images.relabelled(IMAGENET).labels.tolist() == [0, 0]
    with pytest.raises(InvalidDatasetError, match="unicorn"):
        ImageSet("x", pixels, torch.tensor([0, 1]), ("tench", "unicorn")).relabelled(IMAGENET)
    with pytest.raises(InvalidDatasetError, match="tench and Tinca tinca are both tench"):
        ImageSet("x", pixels, torch.tensor([0, 1]), ("tench", "Tinca tinca")).relabelled(IMAGENET)
