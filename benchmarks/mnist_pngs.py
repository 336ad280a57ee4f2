"""MNIST test images as PNG files, with the labels that the shipped model gives them."""

from pathlib import Path

from fend.datasets import load
from fend.images import encode_png
from fend.local import LocalModel


def mnist_pngs(data_dir: Path, count: int = 256) -> tuple[list[bytes], list[str]]:
    """The first `count` of them, and what `models/mnist` says of each."""
    digits = load("mnist:test", data_dir)
    images = [encode_png(digits.pixels(slice(i, i + 1))[0]) for i in range(count)]
    model = LocalModel(Path("models/mnist"))
    return images, [model.classify(image).label for image in images]
