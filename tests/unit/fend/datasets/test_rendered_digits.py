import pytest
import torch

from fend.datasets import InvalidDatasetError, load, rendered_digits


class TestRenderedDigits:
    def test_needs_no_data_directory_and_is_the_same_every_time(self) -> None:
        images = load("rendered-digits", None)
        assert images.name == "rendered-digits:test"
        assert images.images.shape == (1000, 1, 28, 28)
        assert images.digest == load("rendered-digits:test", None).digest

    def test_labels_are_balanced_and_splits_differ(self) -> None:
        train = rendered_digits.load("train", 200)
        test = rendered_digits.load("test", 200)
        assert train.labels.bincount().tolist() == [20] * 10
        seen = {image.numpy().tobytes() for image in train.images}
        assert len(seen) == 200
        assert not any(image.numpy().tobytes() in seen for image in test.images)

    def test_a_longer_set_begins_with_the_shorter(self) -> None:
        longer = rendered_digits.load("test", 30)
        assert rendered_digits.load("test", 10).digest == longer.subset(slice(10)).digest

    def test_digits_are_light_on_dark_and_whole(self) -> None:
        images = rendered_digits.load("test", 500).images
        assert int(images.amax(dim=(1, 2, 3)).min()) > 120
        assert float(images.float().mean()) < 80
        edge = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]])
        assert int(edge.max()) < 40

    def test_digits_can_be_told_apart(self) -> None:
        train = rendered_digits.load("train", 1000)
        test = rendered_digits.load("test", 100)
        distances = torch.cdist(
            test.pixels(slice(None)).flatten(1), train.pixels(slice(None)).flatten(1)
        )
        nearest = train.labels[distances.argmin(dim=1)]
        assert int((nearest == test.labels).sum()) >= 90

    def test_empty_set_is_refused(self) -> None:
        with pytest.raises(InvalidDatasetError):
            rendered_digits.load("test", 0)
