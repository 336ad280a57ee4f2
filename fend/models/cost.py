"""What one pass of a network takes, found from shapes alone before anything is computed.

A bundle may come from a stranger, and a few lines of it can ask for any number of numbers: so
tensors without memory (torch's fake ones) go through it first, and what is beyond the limits is
refused.
"""

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fend.models.graph import GraphNetwork

MAX_TENSOR_BYTES = 2**29
MAX_BYTES = 2**31
"""Of all tensors that are there at one time, weights not counted."""
MAX_OPERATIONS = 20_000
MAX_NUMBERS = 2**35
"""Read or written, by all operations: half a minute of one processor."""
MAX_FLOPS = 2**41
"""Multiplications and additions: minutes of one processor."""
CHEAP_NUMBERS = 2**26
"""In one tensor at most: then nothing is looked at closer."""

_IMAGES = 2  # a picture, cleaned and as it came
_WINDOWS = ("max_pool2d_with_indices", "avg_pool2d")


def is_cheap(network: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    """Whether no tensor of one of Fend's own architectures can become large: for each place of an
    image it holds as many numbers as its widest layer has channels, or as there are places."""
    places = image_shape[1] * image_shape[2]
    widest = max([places, *(len(weights) for weights in network.parameters() if weights.ndim > 1)])
    return _IMAGES * places * widest <= CHEAP_NUMBERS and not any(
        isinstance(part, GraphNetwork) for part in network.modules()
    )


@torch.inference_mode(False)
@torch.no_grad()
def check_cost(network: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Follow the shapes of `network`, whose tensors may be on the meta device, for images (C,H,W):
    two of them, as a picture is classified cleaned and as it came.

    Raises:
        RuntimeError: it takes more than one of the limits, does not fit together, or has an
            operation whose shape depends on the pixels.
    """
    # Late, as the lists of formulas below: it takes a second and 150 MB.
    from torch._subclasses.fake_tensor import FakeTensorMode

    complaints = logging.getLogger(FakeTensorMode.__module__)
    held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with FakeTensorMode():
        fake = {name: torch.empty(real.shape, dtype=real.dtype) for name, real in held.items()}
        images = torch.empty(_IMAGES, *image_shape)
        complaints.disabled = True  # what is raised says enough
        try:
            with _Counting([images, *fake.values()]):
                torch.func.functional_call(network, fake, images)
        finally:
            complaints.disabled = False


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what every operation makes, on top of torch's fake tensors."""

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        from torch.utils.flop_counter import flop_registry

        self._formulas: Mapping[Any, Callable[..., int]] = flop_registry
        self._operations = self._flops = self._numbers = self._bytes = 0
        self._there = {tensor.untyped_storage()._cdata for tensor in there}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._overloadpacket.__name__
        self._operations += 1 + _pieces(name, *args, **kwargs)
        _limit("operations", self._operations, MAX_OPERATIONS)
        made = func(*args, **kwargs)
        new = [tensor for tensor in _tensors(made) if self._is_new(tensor)]
        if new:  # not a view, and so every number was touched
            touched = (*new, *_tensors((args, kwargs)))
            self._numbers += sum(tensor.numel() for tensor in touched)
            _limit("numbers", self._numbers, MAX_NUMBERS)
        if formula := self._formulas.get(func._overloadpacket):
            self._flops += formula(*args, **kwargs, out_val=made)
        elif name in _WINDOWS:
            self._flops += new[0].numel() * math.prod(args[1])
        _limit("multiplications", self._flops, MAX_FLOPS)
        return made

    def _is_new(self, tensor: Tensor) -> bool:
        """Whether it has memory of its own, which is counted as long as it is there."""
        memory = tensor.untyped_storage()
        place, size_bytes = memory._cdata, memory.nbytes()
        if place in self._there:
            return False
        _limit("bytes in one tensor", size_bytes, MAX_TENSOR_BYTES)
        self._bytes += size_bytes
        _limit("bytes at one time", self._bytes, MAX_BYTES)
        self._there.add(place)
        weakref.finalize(memory, self._gone, place, size_bytes)
        return True

    def _gone(self, place: int, size_bytes: int) -> None:
        self._there.discard(place)
        self._bytes -= size_bytes


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _pieces(name: str, tensor: Any = None, *args: Any, **kwargs: Any) -> int:
    """How many tensors an operation makes of one, for those that make any number."""
    if name == "unbind":
        dim, size = (*args, kwargs.get("dim", 0))[0], 1
    elif name == "split" and isinstance(args[0], int):
        dim, size = (*args, kwargs.get("dim", 0))[1], max(1, args[0])
    else:
        return 0
    return int(tensor.shape[dim]) // size


def _limit(what: str, number: int, most: int) -> None:
    if number > most:
        raise RuntimeError(f"one picture takes {number} {what}, at most {most} are allowed")
