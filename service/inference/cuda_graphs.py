"""A model's forward pass as recorded CUDA graphs, one for each size that batches are rounded up to.

A small network on a GPU waits for Python, which launches some forty kernels a batch; a graph
launches them all at once. An answer does not depend on what else is in the batch, so the rows that
fill a batch up change nothing.

In float32, as the audits attack it. Half precision would make another model of it.
"""

from typing import Any

import torch
from torch import Tensor

from service.inference.frozen_graph import Forward, GraphDisagrees, Outputs, compare

WARM_UPS = 3
"""Before a graph is recorded: libraries choose their algorithms and take their memory."""


def buckets(max_batch: int) -> list[int]:
    """The sizes that are recorded: powers of two up to `max_batch`, and that itself."""
    return sorted({min(2**power, max_batch) for power in range(max_batch.bit_length() + 1)})


class Captured:
    """Batches (N,C,H,W) on the CPU to `Outputs` on the CPU; used from one thread."""

    def __init__(
        self, forward: Forward, image: Tensor, device: torch.device, max_batch: int
    ) -> None:
        """`forward` takes and gives tensors on `device`; `image` (C,H,W) is one that it can take.

        Raises:
            GraphDisagrees: the graphs answer otherwise than `forward`, or cannot be recorded.
        """
        self._device = device
        try:
            self._record(forward, image, max_batch)
        except RuntimeError as error:
            raise GraphDisagrees(f"it cannot be recorded: {str(error).splitlines()[0]}") from error

    def _record(self, forward: Forward, image: Tensor, max_batch: int) -> None:
        device = self._device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        largest = torch.zeros((max_batch, *image.shape))
        self._host = largest.pin_memory()
        """Memory that the GPU reads by itself."""
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Outputs]] = {}
        pool: Any = None
        for size in reversed(
            buckets(max_batch)
        ):  # the largest first: the others fit into its memory
            images = largest[:size].to(device)
            graph = torch.cuda.CUDAGraph()
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    forward(images)
                with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                    outputs = forward(images)
            pool = pool or graph.pool()
            self._graphs[size] = graph, images, outputs
        noise = torch.rand(largest.shape, generator=torch.Generator().manual_seed(0))
        noise[0] = image
        for size in {1, max_batch // 2 or 1, max_batch}:
            with torch.inference_mode():
                compare(_to_cpu(forward(noise[:size].to(device))), self(noise[:size]))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Outputs:
        """The outputs for `images`, at most `max_batch` of them."""
        count = len(images)
        size = min(size for size in self._graphs if size >= count)
        graph, on_device, outputs = self._graphs[size]
        self._host[:count].copy_(images)
        with torch.cuda.stream(self._stream):
            on_device[:count].copy_(self._host[:count], non_blocking=True)
            graph.replay()
            answers = Outputs(
                *(part[:count].to("cpu", non_blocking=True) for part in outputs.tensors)
            )
        self._stream.synchronize()
        return answers


def _to_cpu(outputs: Outputs) -> Outputs:
    return Outputs(*(part.cpu() for part in outputs.tensors))
