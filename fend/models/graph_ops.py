"""The operations that a `graph` network may consist of: those of image classifiers, and no others.

All are functions of tensors and numbers: none writes a file, allocates by a name, draws at random
or changes its input. Enough for every classifier of torchvision, and for those of timm and
transformers that `benchmarks.foreign_architectures` lists.
"""

import operator
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_ATEN = """
    conv1d conv2d conv3d conv_transpose2d linear matmul mm bmm addmm einsum batch_norm layer_norm
    group_norm instance_norm rms_norm native_layer_norm native_group_norm
    _native_batch_norm_legit _native_batch_norm_legit_no_training scaled_dot_product_attention
    embedding max_pool2d max_pool2d_with_indices avg_pool1d avg_pool2d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d
    upsample_bicubic2d pixel_shuffle pixel_unshuffle

    relu relu6 leaky_relu prelu elu selu celu gelu silu mish sigmoid tanh hardtanh hardsigmoid
    hardswish softplus softsign log_sigmoid softmax _softmax log_softmax _log_softmax glu

    add sub rsub mul div neg abs sign exp log log1p expm1 sqrt rsqrt square pow reciprocal sin cos
    erf maximum minimum clamp clamp_min clamp_max floor ceil round eq ne lt le gt ge logical_and
    logical_or logical_not bitwise_and bitwise_or bitwise_not where masked_fill lerp

    sum mean var std amax amin argmax argmin prod linalg_vector_norm norm cumsum

    view reshape _unsafe_view flatten unflatten permute transpose t squeeze unsqueeze expand
    expand_as repeat cat stack split split_with_sizes chunk unbind narrow select slice slice_scatter
    select_scatter index index_select gather roll flip pad constant_pad_nd movedim meshgrid unfold
    im2col alias clone contiguous detach lift_fresh_copy

    full full_like zero zeros zeros_like ones ones_like new_zeros new_ones new_full arange fill
    scalar_tensor sym_size to _to_copy type_as
"""
ATEN = frozenset(_ATEN.split())
"""By name in torch.ops.aten; of an operation's overloads those that change nothing in place."""


def _limited(function: Callable[..., Any]) -> Callable[..., Any]:
    """Arithmetic on numbers alone, within 64 bits: a text or a list times a number, or one number
    squared again and again, would fill the memory."""

    def run(*operands: Any) -> Any:
        for operand in operands:
            # Of one number each: a size, while torch traces.
            if not isinstance(operand, int | float | torch.SymInt | Tensor):
                raise TypeError(f"{operand!r:.50} is no number")
        result = function(*operands)
        if isinstance(result, int) and not within_64_bits(result):
            raise ArithmeticError("a number has more than 64 bits")
        return result

    return run


def within_64_bits(number: int) -> bool:
    """Whether torch can take it."""
    return -(2**63) <= number < 2**63


def _getitem(parts: Any, index: Any) -> Any:
    if isinstance(parts, str) or not isinstance(index, int):
        raise TypeError(f"{index!r:.50} is no place in a result")
    return parts[index]


NUMBERS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"getitem": _getitem}
    | {
        name: _limited(getattr(operator, name))
        for name in ("add", "sub", "mul", "floordiv", "mod", "neg")
    }
)
"""On sizes, which depend on the batch, and on the parts of a result."""


def _slice(
    features: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    return features[(*[slice(None)] * (dim % features.dim()), slice(start, end, step))]


def _batch_norm(
    features: Tensor, weight: Any, bias: Any, mean: Tensor, var: Tensor, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Bit for bit what torch.export writes, in the form that engines know and fold into a
    convolution."""
    normed = functional.batch_norm(features, mean, var, weight, bias, False, momentum, eps)
    return normed, features.new_empty(0), features.new_empty(0)


_TRACED: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "aten._native_batch_norm_legit_no_training.default": _batch_norm,
        "aten.sym_size.int": Tensor.size,
        "aten.view.default": Tensor.view,
        "aten.reshape.default": Tensor.reshape,
        "aten._unsafe_view.default": Tensor.reshape,
        "aten.expand.default": Tensor.expand,
        "aten.repeat.default": Tensor.repeat,
        "aten.slice.Tensor": _slice,
        "aten.full.default": torch.full,
        "aten.full_like.default": torch.full_like,
        "aten.fill.Scalar": torch.full_like,
        "aten.zero.default": torch.zeros_like,
        "aten.zeros.default": torch.zeros,
        "aten.ones.default": torch.ones,
        "aten.new_full.default": Tensor.new_full,
        "aten.new_zeros.default": Tensor.new_zeros,
        "aten.new_ones.default": Tensor.new_ones,
        "aten.arange.default": torch.arange,
        "aten.arange.start": torch.arange,
        "aten.arange.start_step": torch.arange,
    }
)
"""Python's form of what gives a size or takes one, and what is traced better than its original.
`torch.jit.trace` follows sizes through these alone; through torch.ops it would fix the size of the
batch at that of its example."""


@cache
def operation(name: str) -> Callable[..., Any]:
    """The function that `name` stands for: "aten.conv2d.default", or "number.mul".

    Raises:
        ValueError: it is not one of those that a graph may use.
    """
    family, _, rest = name.partition(".")
    if family == "number" and rest in NUMBERS:
        return NUMBERS[rest]
    packet, _, overload = rest.partition(".")
    if family == "aten" and packet in ATEN:
        packets = getattr(torch.ops.aten, packet, None)
        if packets is not None and overload in packets.overloads():
            found = getattr(packets, overload)
            if not found._schema.is_mutable:
                return _TRACED.get(name, found)
    raise ValueError(f"{name} is none of the operations that a graph may use")
