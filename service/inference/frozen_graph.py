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
    finite: Tensor
    """(N,): whether all of the others are."""
    undefended: Tensor | None = None
    """(N, classes), of the images as they came; None where that is not compared."""
    suspicion: Tensor | None = None
    """(N,) in [0, 1]; None in the same way."""

    @property
    def tensors(self) -> list[Tensor]:
        """Those that are there."""
        return [part for part in self if part is not None]


Forward = Callable[[Tensor], Outputs]
Spread = Callable[[int], Forward]
"""A forward pass over so many threads."""


class GraphDisagrees(FendError):
    """The graph of a model does not answer what the model does."""

    code = "graph_disagrees"


class Served(nn.Module):
    """A pipeline with all that is computed for an answer."""

    def __init__(self, defence: Defence, *, compare: bool = True) -> None:
        """`compare`: also without the denoiser, for another pass of the classifier."""
        super().__init__()
        self.defence = defence
        self.compare = compare

    def forward(self, images: Tensor) -> Outputs:
        """Images (N,C,H,W) in [0, 1] to what is sent of them."""
        if not self.compare:
            denoised = self.defence.denoiser(images)
            return _outputs(denoised, self.defence.classifier(denoised).softmax(1))
        answers = self.defence.answer(images)
        undefended = answers.undefended_logits.softmax(1)
        alone = _outputs(answers.denoised, answers.logits.softmax(1))
        return alone._replace(
            finite=alone.finite & undefended.isfinite().all(1),
            undefended=undefended,
            suspicion=suspicion(answers.logits, answers.undefended_logits),
        )


def _outputs(denoised: Tensor, probabilities: Tensor) -> Outputs:
    finite = probabilities.isfinite().all(1) & denoised.isfinite().flatten(1).all(1)
    return Outputs(denoised.clamp(0.0, 1.0), probabilities, finite)


class Tensors(nn.Module):
    """`served`, its outputs a plain tuple of those that are there: what can be traced."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served = served

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (N,C,H,W) in [0, 1] to what is sent of them."""
        return tuple(self.served(images).tensors)


def samples(image: Tensor) -> Tensor:
    """What graphs are traced with and compared on: `image` (C,H,W) and noise, (N,C,H,W)."""
    noise = torch.rand((max(BATCHES), *image.shape), generator=torch.Generator().manual_seed(0))
    return torch.cat([image.unsqueeze(0), noise])


@torch.inference_mode()
def frozen(served: Served, image: Tensor) -> Forward:
    """`served` as a graph that has been compared with it, on `image` (C,H,W) and noise.

    Raises:
        GraphDisagrees: it answers otherwise, or cannot be traced.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated; constants that are meant
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                Tensors(served).eval(), samples(image), check_trace=False
            )
            graph = torch.jit.freeze(traced)
    except RuntimeError as error:
        raise GraphDisagrees(f"it cannot be traced: {str(error).splitlines()[0]}") from error
    return checked(lambda batch: Outputs(*graph(batch)), served, image)


def checked(forward: Forward, served: Served, image: Tensor) -> Forward:
    """`forward`, which answers what `served` does, on `image` (C,H,W) and noise.

    Raises:
        GraphDisagrees: it does not.
    """
    images = samples(image)
    try:
        for size in BATCHES:
            compare(served(images[:size]), forward(images[:size]))
    except RuntimeError as error:
        raise GraphDisagrees(f"it fails: {str(error).splitlines()[0]}") from error
    return forward


def compare(eager: Outputs, graph: Outputs) -> None:
    """Both are of the same batch.

    Raises:
        GraphDisagrees: they differ by more than `TOLERANCE`.
    """
    for name, one, other in zip(Outputs._fields, eager.tensors, graph.tensors, strict=False):
        if one.shape != other.shape or not torch.allclose(
            one.float(), other.float(), rtol=0, atol=TOLERANCE, equal_nan=True
        ):
            raise GraphDisagrees(f"its {name} is another for a batch of {len(one)}")
