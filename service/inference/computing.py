"""How a model is computed: the engine, its threads and the size of its batches, by measurement.

An engine takes images and gives outputs. One that cannot take a model, or answers otherwise than
the model does, is passed over for the next, and the log says so; the last one takes every model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import structlog
import torch
from torch import Tensor

from service.inference import openvino_graph
from service.inference.cuda_graphs import Captured, buckets
from service.inference.frozen_graph import Forward, GraphDisagrees, Outputs, Served, Spread, frozen
from service.inference.threads import QUICK_S, best_batch, best_threads, median_s, most_threads
from service.settings import EngineChoice

EngineName = Literal["openvino", "torchscript", "torch", "cuda_graphs"]

TYPICAL_BATCH = 16
"""With which threads are compared where one image is quick: such models have many callers."""


@dataclass(frozen=True)
class Computing:
    """What was chosen for a model."""

    engine: EngineName = "torch"
    threads: int = 1
    """Over which an operation is spread on a CPU."""
    max_batch: int = 1
    """Images that go through the model at once."""


@dataclass(frozen=True)
class Wanted:
    """What the settings say of it."""

    engine: EngineChoice = "auto"
    threads: int | None = None
    """None: as many as are best."""


Pair = dict[bool, Served]
"""A pipeline with and without the comparison."""


@torch.inference_mode()
def fastest(
    served: Pair, image: Tensor, device: torch.device, wanted: Wanted, most_images: int
) -> tuple[Computing, dict[bool, Forward]]:
    """The first engine that takes `served`, measured on `image` (C,H,W), with batches of at most
    `most_images`."""
    for name in _engines(device, wanted.engine):
        try:
            spread = _spread(name, served[True], image, device, most_images)
            threads = wanted.threads or (_threads(spread, image) if device.type == "cpu" else 1)
            alone = _spread(name, served[False], image, device, most_images)
            forwards = {True: spread(threads), False: alone(threads)}
            break
        except GraphDisagrees as error:
            structlog.get_logger().warning(
                "the model is served by a slower engine", passed_over=name, reason=str(error)
            )

    def run(size: int) -> Tensor:
        return forwards[True](torch.stack([image] * size)).finite.cpu()

    return Computing(name, threads, best_batch(run, buckets(most_images))), forwards


def eager(served: Served, device: torch.device) -> Forward:
    """The model as it is."""
    return lambda images: served(images.to(device))


def _engines(device: torch.device, choice: EngineChoice) -> Iterator[EngineName]:
    if device.type == "cuda":
        yield "cuda_graphs"
    if device.type == "cpu":
        if choice != "torch" and openvino_graph.version():
            yield "openvino"
        yield "torchscript"
    yield "torch"


def _spread(
    name: EngineName, served: Served, image: Tensor, device: torch.device, most_images: int
) -> Spread:
    """Raises GraphDisagrees."""
    if name == "openvino":
        return openvino_graph.compiled(served, image)
    if name == "cuda_graphs":
        forward: Forward = Captured(served, image, device, most_images)
    else:
        forward = frozen(served, image) if name == "torchscript" else eager(served, device)

    def over(threads: int) -> Forward:
        def run(images: Tensor) -> Outputs:
            if torch.get_num_threads() != threads:  # models share the thread
                torch.set_num_threads(threads)
            return forward(images)

        return run

    return over


def _threads(spread: Spread, image: Tensor) -> int:
    one = image.unsqueeze(0)
    over_one = spread(1)
    image_s = median_s(lambda: over_one(one))
    images = one.expand(TYPICAL_BATCH, -1, -1, -1).contiguous() if image_s < QUICK_S else one

    def work(threads: int) -> Callable[[], object]:
        forward = spread(threads)
        return lambda: forward(images)

    return best_threads(work, most_threads(image_s))
