"""What the benchmarks share: their options, test images as PNG, shares with intervals, tables."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from fend.attacks import Objective
from fend.audit.rows.statistics import wilson_interval
from fend.cli.folders import DATA_DIR
from fend.client.local import LocalModel
from fend.datasets import load
from fend.images import encode_png


class Share(Protocol):
    """An accuracy and its interval, each in [0, 1], as audit reports hold it."""

    accuracy: float
    low: float
    high: float


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has; `doc` is the module's docstring.

    The data sets are read from FEND_DATA_DIR, or from where `fend data fetch` puts them. Attacks
    run on one thread, so that times and the last bits do not depend on the machine.
    """
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    default = Path(os.environ.get("FEND_DATA_DIR", DATA_DIR))
    parser.add_argument("--data-dir", type=Path, default=default)
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    return parser


def mnist_pngs(data_dir: Path, count: int = 256) -> tuple[list[bytes], list[str]]:
    """The first test images of MNIST as PNG files, and the label that `models/mnist` gives each."""
    digits = load("mnist:test", data_dir)
    images = [encode_png(digits.pixels(slice(i, i + 1))[0]) for i in range(count)]
    model = LocalModel(Path("models/mnist"))
    return images, [model.classify(image).label for image in images]


def margins(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The right logit less the best other one, (N,), for images (N,C,H,W): 0 or less is broken."""
    with torch.inference_mode():
        return -Objective(loss="margin").values(model(images), labels)


def cell(share: Share) -> str:
    """An accuracy in percent with its interval."""
    return f"{100 * share.accuracy:.1f} ({percent(share.low, share.high)})"


def counted(successes: int, trials: int) -> str:
    """The same for a count."""
    return f"{100 * successes / trials:.1f} ({percent(*wilson_interval(successes, trials))})"


def percent(low: float, high: float) -> str:
    """An interval in percent."""
    return f"{100 * low:.1f}-{100 * high:.1f}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; its first row is the head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def target_table(targets: Sequence[tuple[str, str, bool]]) -> str:
    """A table of what was aimed at, what was measured, and whether that is enough."""
    rows = [(what, measured, "yes" if met else "**no**") for what, measured, met in targets]
    return markdown([("target", "measured", "met"), *rows])
