from pathlib import Path

import numpy as np
import pytest
from refusals import code

from fend.datasets import MissingDatasetError, load
from fend.errors import Invalid


class TestRegistry:
    @pytest.mark.parametrize(
        "spec", ["", "mnist", "mnist:val", "cifar10:", "cifar100:test", "rendered-digits:x", "npz:"]
    )
    def test_unknown_spec_says_what_there_is(self, spec: str, tmp_path: Path) -> None:
        with pytest.raises(Invalid, match="mnist:train", check=code("dataset_unknown")) as caught:
            load(spec, tmp_path)
        assert caught.value.code == "dataset_unknown"

    @pytest.mark.parametrize("spec", ["mnist:test", "cifar10:train", "gtsrb:test"])
    def test_no_data_directory(self, spec: str) -> None:
        with pytest.raises(MissingDatasetError, match="FEND_DATA_DIR") as caught:
            load(spec, None)
        assert caught.value.code == "dataset_missing"

    def test_missing_files_are_named_with_the_place_and_the_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(MissingDatasetError, match="fend data fetch mnist") as caught:
            load("mnist:test", tmp_path)
        assert "t10k-images-idx3-ubyte" in str(caught.value)
        assert str(tmp_path / "MNIST" / "raw") in str(caught.value)
        with pytest.raises(MissingDatasetError, match=r"data_batch_1.*fend data fetch cifar10"):
            load("cifar10:train", tmp_path)
        with pytest.raises(MissingDatasetError, match=r"gtsrb32/test.npz, which .*training.md"):
            load("gtsrb:test", tmp_path)

    def test_traffic_signs_keep_their_groups(self, tmp_path: Path) -> None:
        (tmp_path / "gtsrb32").mkdir()
        images = np.zeros((3, 32, 32, 3), np.uint8)
        np.savez(
            tmp_path / "gtsrb32" / "train.npz",
            images=images, labels=np.array([0, 1, 1]), groups=np.array([7, 9, 9]),
        )  # fmt: skip
        signs = load("gtsrb:train", tmp_path)
        assert signs.name == "gtsrb:train"
        assert signs.subset(slice(1, 3)).groups.tolist() == [9, 9]
