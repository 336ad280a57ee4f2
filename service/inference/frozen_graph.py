"""A model's forward pass as one call into C++, on the CPU.

In eager mode the inference thread takes Python's lock between any two operations, some forty times
a batch, and waits there for the event loop: measured, a third of the throughput. A TorchScript
graph takes it once. TorchScript is deprecated, and what should follow it, torch.compile and
AOTInductor, needs a C++ compiler where it runs. So the graph is an addition: what cannot be traced,
or answers otherwise than the model itself, is served in eager mode, and the log says so.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fend.errors import FendError
from fend.pipeline import Defence, suspicion

TOLERANCE = 1e-5
"""How far a probability, a pixel or a suspicion of the graph may be from the model's own."""

BATCHES = (1, 2, 5)
"""Sizes at which the two are compared; the trace is taken at another one."""


class Outputs(NamedTuple):
    """What is sent of a batch of N images."""

    denoised: Tensor
    """(N,C,H,W) in [0, 1]."""
    probabilities: Tensor
    """(N, classes), of the denoised images."""
    undefended: Tensor
    """(N, classes), of the images as they came."""
    suspicion: Tensor
    """(N,) in [0, 1]."""
    finite: Tensor
    """(N,): whether all of the others are."""


Forward = Callable[[Tensor], Outputs]


class GraphDisagrees(FendError):
    """The graph of a model does not answer what the model does."""

    code = "graph_disagrees"


class Served(nn.Module):
    """A pipeline with all that is computed for an answer."""

    def __init__(self, defence: Defence) -> None:
        super().__init__()
        self.defence = defence

    def forward(self, images: Tensor) -> Outputs:
        """Images (N,C,H,W) in [0, 1] to what is sent of them."""
        answers = self.defence.answer(images)
        probabilities = answers.logits.softmax(1)
        undefended = answers.undefended_logits.softmax(1)
        denoised = answers.denoised.clamp(0.0, 1.0)
        finite = (probabilities + undefended).isfinite().all(1)
        finite &= denoised.isfinite().flatten(1).all(1)
        score = suspicion(answers.logits, answers.undefended_logits)
        return Outputs(denoised, probabilities, undefended, score, finite)


@torch.inference_mode()
def frozen(served: Served, image: Tensor) -> Forward:
    """`served` as a graph that has been compared with it, on `image` (C,H,W) and noise.

    Raises:
        GraphDisagrees: it answers otherwise, or cannot be traced.
    """
    noise = torch.rand((max(BATCHES), *image.shape), generator=torch.Generator().manual_seed(0))
    images = torch.cat([image.unsqueeze(0), noise])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated; constants that are meant
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                served.eval(), images, check_trace=False
            )
            graph = torch.jit.freeze(traced)
        for size in BATCHES:
            compare(served(images[:size]), Outputs(*graph(images[:size])))
    except RuntimeError as error:
        raise GraphDisagrees(f"it cannot be traced: {str(error).splitlines()[0]}") from error
    return lambda batch: Outputs(*graph(batch))


def compare(eager: Outputs, graph: Outputs) -> None:
    """Both are of the same batch.

    Raises:
        GraphDisagrees: they differ by more than `TOLERANCE`.
    """
    for name, one, other in zip(Outputs._fields, eager, graph, strict=True):
        if one.shape != other.shape or not torch.allclose(
            one.float(), other.float(), rtol=0, atol=TOLERANCE, equal_nan=True
        ):
            raise GraphDisagrees(f"its {name} is another for a batch of {len(one)}")
