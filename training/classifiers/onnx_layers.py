"""The ONNX operators of arithmetic, activations and layers, each a function of torch's."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from training.classifiers.onnx_node import Node, Unsupported


def _one(function: Callable[..., Tensor], *names: tuple[str, Any]) -> Callable[[Node], Tensor]:
    """An operator of one tensor and some attributes with their defaults."""
    return lambda node: function(node.tensor(0), *(node.get(*name) for name in names))


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Node], Tensor]:
    return lambda node: function(node.tensor(0), node.tensor(1))


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Node], Tensor]:
    def run(node: Node) -> Tensor:
        result = node.tensor(0)
        for index in range(1, len(node.values)):
            result = function(result, node.tensor(index))
        return result

    return run


def _div(a: Tensor, b: Tensor) -> Tensor:
    whole = not a.is_floating_point() and not b.is_floating_point()
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


# Convolutions and pooling


def _pads(node: Node, images: Tensor, kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """What is added on each side: the beginnings of all axes, then the ends."""
    dims, how = len(kernel), node.get("auto_pad", "NOTSET")
    if how in ("NOTSET", ""):
        return list(node.get("pads", [0] * 2 * dims))
    if how == "VALID":
        return [0] * 2 * dims
    dilations = node.get("dilations", [1] * dims)
    begins, ends = [], []
    for size, width, stride, dilation in zip(
        images.shape[2:], kernel, strides, dilations, strict=True
    ):
        wide = dilation * (width - 1) + 1
        added = max((-(-int(size) // stride) - 1) * stride + wide - int(size), 0)
        less, more = added // 2, added - added // 2
        begins.append(less if how == "SAME_UPPER" else more)
        ends.append(more if how == "SAME_UPPER" else less)
    return begins + ends


def _padded(images: Tensor, pads: Sequence[int], value: float) -> Tensor:
    dims = len(pads) // 2
    if not any(pads):
        return images
    sides = [pads[axis + end] for axis in reversed(range(dims)) for end in (0, dims)]
    return F.pad(images, sides, value=value)


def _conv(node: Node) -> Tensor:
    images, weight = node.tensor(0), node.tensor(1)
    dims = weight.dim() - 2
    if dims not in (1, 2):
        raise Unsupported(f"in {dims} dimensions")
    strides = node.get("strides", [1] * dims)
    pads = _pads(node, images, list(weight.shape[2:]), strides)
    padding: Sequence[int] = pads[:dims]
    if pads[:dims] != pads[dims:]:
        images, padding = _padded(images, pads, 0.0), [0] * dims
    function: Any = F.conv1d if dims == 1 else F.conv2d
    bias = node.tensor(2) if node.has(2) else None
    result: Tensor = function(
        images, weight, bias, strides, padding, node.get("dilations", [1] * dims),
        node.get("group", 1),
    )  # fmt: skip
    return result


def _max_pool(node: Node) -> Tensor:
    images, kernel = node.tensor(0), node.get("kernel_shape")
    strides = node.get("strides", [1] * len(kernel))
    if len(kernel) != 2 or len(node.outputs) > 1:
        raise Unsupported("in other than two dimensions, or with indices")
    images = _padded(images, _pads(node, images, kernel, strides), -math.inf)
    dilations = node.get("dilations", [1, 1])
    return F.max_pool2d(images, kernel, strides, 0, dilations, bool(node.get("ceil_mode", 0)))


def _average_pool(node: Node) -> Tensor:
    images, kernel = node.tensor(0), node.get("kernel_shape")
    strides, ceil = node.get("strides", [1] * len(kernel)), bool(node.get("ceil_mode", 0))
    if len(kernel) != 2 or node.get("dilations", [1, 1]) != [1, 1]:
        raise Unsupported("in other than two dimensions, or dilated")
    pads = _pads(node, images, kernel, strides)
    means = F.avg_pool2d(_padded(images, pads, 0.0), kernel, strides, 0, ceil)
    if not any(pads) or node.get("count_include_pad", 0):
        return means
    inside = _padded(torch.ones_like(images[:1, :1]), pads, 0.0)
    return means / F.avg_pool2d(inside, kernel, strides, 0, ceil)


def _global(reduce: Callable[..., Tensor]) -> Callable[[Node], Tensor]:
    return lambda node: reduce(
        node.tensor(0), dim=list(range(2, node.tensor(0).dim())), keepdim=True
    )


# Normalisation


def _batch_norm(node: Node) -> Tensor:
    if node.get("training_mode", 0) or (len(node.outputs) > 1 and node.opset >= 14):
        raise Unsupported("in training mode")
    images, scale, bias, mean, variance = (node.tensor(index) for index in range(5))
    return F.batch_norm(images, mean, variance, scale, bias, False, 0.0, node.get("epsilon", 1e-5))


def _instance_norm(node: Node) -> Tensor:
    images, scale, bias = (node.tensor(index) for index in range(3))
    return F.instance_norm(images, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


def _layer_norm(node: Node) -> Tensor:
    features, axis = node.tensor(0), node.get("axis", -1)
    shape = [int(size) for size in features.shape[axis % features.dim() :]]
    bias = node.tensor(2) if node.has(2) else None
    return F.layer_norm(features, shape, node.tensor(1), bias, node.get("epsilon", 1e-5))


def _group_norm(node: Node) -> Tensor:
    if node.opset < 21:
        raise Unsupported("before opset 21, where its scale is one a group")
    features, scale, bias = (node.tensor(index) for index in range(3))
    return F.group_norm(features, node.get("num_groups"), scale, bias, node.get("epsilon", 1e-5))


def _local_response(node: Node) -> Tensor:
    features, size = node.tensor(0), node.get("size")
    before, channels = (size - 1) // 2, features.shape[1]
    squares = F.pad(features.square(), (0, 0, 0, 0, before, size - 1 - before))
    total = sum(squares.narrow(1, start, channels) for start in range(size))
    scale = node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * total
    return features / torch.pow(scale, node.get("beta", 0.75))


def _softmax(function: Callable[..., Tensor]) -> Callable[[Node], Tensor]:
    def run(node: Node) -> Tensor:
        features = node.tensor(0)
        if node.opset >= 13:
            return function(features, dim=node.get("axis", -1))
        axis = node.get("axis", 1) % features.dim()
        if axis == features.dim() - 1:
            return function(features, dim=axis)
        return function(features.flatten(axis), dim=axis).reshape(features.shape)

    return run


def _gemm(node: Node) -> Tensor:
    a, b = node.tensor(0), node.tensor(1)
    a = a.t() if node.get("transA", 0) else a
    if node.get("alpha", 1.0) == 1 and node.get("beta", 1.0) == 1 and node.get("transB", 0):
        bias = node.tensor(2) if node.has(2) else None
        if bias is None or bias.dim() == 1:
            return F.linear(a, b, bias)
    product = node.get("alpha", 1.0) * (a @ (b.t() if node.get("transB", 0) else b))
    return (
        torch.add(product, node.tensor(2), alpha=node.get("beta", 1.0)) if node.has(2) else product
    )


# Elementwise


def _clip(node: Node) -> Tensor:
    low, high = (node.numbers(1, "min"), node.numbers(2, "max"))
    first, last = (item[0] if isinstance(item, list) else item for item in (low, high))
    features = node.tensor(0)
    return features if first is None and last is None else features.clamp(first, last)


def _prelu(node: Node) -> Tensor:
    features, slope = node.tensor(0), node.tensor(1)
    return torch.where(features >= 0, features, slope * features)


def _hard_sigmoid(node: Node) -> Tensor:
    return torch.clamp(node.get("alpha", 0.2) * node.tensor(0) + node.get("beta", 0.5), 0, 1)


def _cast(node: Node) -> Tensor:
    import onnx

    kind = onnx.helper.tensor_dtype_to_np_dtype(node.get("to"))
    names = {"bool": torch.bool, "float16": torch.float32, "float64": torch.float32}
    wanted = names.get(kind.name) or getattr(torch, kind.name, None)
    if not isinstance(wanted, torch.dtype):
        raise Unsupported(f"to {kind}")
    return node.tensor(0).to(wanted) if node.tensor(0).dtype != wanted else node.tensor(0)


def _reduce(function: Callable[..., Tensor]) -> Callable[[Node], Tensor]:
    def run(node: Node) -> Tensor:
        features, axes = node.tensor(0), node.numbers(1, "axes")
        if axes is None:
            if node.get("noop_with_empty_axes", 0):
                return features
            axes = list(range(features.dim()))
        return function(features, dim=axes, keepdim=bool(node.get("keepdims", 1)))

    return run


def _norm2(features: Tensor, dim: list[int], keepdim: bool) -> Tensor:
    return features.square().sum(dim, keepdim).sqrt()


LAYERS: dict[str, Callable[[Node], Any]] = {
    "Conv": _conv, "Gemm": _gemm, "MatMul": _two(torch.matmul),
    "MaxPool": _max_pool, "AveragePool": _average_pool,
    "GlobalAveragePool": _global(torch.mean), "GlobalMaxPool": _global(torch.amax),
    "BatchNormalization": _batch_norm, "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm, "GroupNormalization": _group_norm, "LRN": _local_response,
    "Softmax": _softmax(torch.softmax), "LogSoftmax": _softmax(torch.log_softmax),
    "Relu": _one(torch.relu), "LeakyRelu": _one(F.leaky_relu, ("alpha", 0.01)), "PRelu": _prelu,
    "Elu": _one(F.elu, ("alpha", 1.0)), "Selu": _one(F.selu), "Celu": _one(F.celu, ("alpha", 1.0)),
    "Sigmoid": _one(torch.sigmoid), "HardSigmoid": _hard_sigmoid, "HardSwish": _one(F.hardswish),
    "Tanh": _one(torch.tanh), "Softplus": _one(F.softplus), "Softsign": _one(F.softsign),
    "Mish": _one(F.mish),
    "Gelu": lambda node: F.gelu(node.tensor(0), approximate=node.get("approximate", "none")),
    "Erf": _one(torch.erf), "Exp": _one(torch.exp), "Log": _one(torch.log),
    "Sqrt": _one(torch.sqrt), "Reciprocal": _one(torch.reciprocal), "Abs": _one(torch.abs),
    "Neg": _one(torch.neg), "Sign": _one(torch.sign), "Floor": _one(torch.floor),
    "Ceil": _one(torch.ceil), "Round": _one(torch.round), "Sin": _one(torch.sin),
    "Cos": _one(torch.cos), "Not": _one(torch.logical_not), "Identity": _one(lambda x: x),
    "Dropout": _one(lambda x: x), "Clip": _clip, "Cast": _cast,
    "CastLike": lambda node: node.tensor(0).to(node.tensor(1).dtype),
    "Add": _two(torch.add), "Sub": _two(torch.sub), "Mul": _two(torch.mul), "Div": _two(_div),
    "Pow": _two(torch.pow), "Sum": _many(torch.add), "Min": _many(torch.minimum),
    "Max": _many(torch.maximum),
    "Mean": lambda node: _many(torch.add)(node) / len(node.values),
    "Equal": _two(torch.eq), "Greater": _two(torch.gt), "GreaterOrEqual": _two(torch.ge),
    "Less": _two(torch.lt), "LessOrEqual": _two(torch.le), "And": _two(torch.logical_and),
    "Or": _two(torch.logical_or),
    "Where": lambda node: torch.where(node.tensor(0), node.tensor(1), node.tensor(2)),
    "ReduceMean": _reduce(torch.mean), "ReduceSum": _reduce(torch.sum),
    "ReduceMax": _reduce(torch.amax), "ReduceMin": _reduce(torch.amin),
    "ReduceL2": _reduce(_norm2),
    "ReduceSumSquare": _reduce(lambda x, dim, keepdim: x.square().sum(dim, keepdim)),
    "ReduceProd": _reduce(lambda x, dim, keepdim: x.prod(dim[0], keepdim)),
    "Einsum": lambda node: torch.einsum(
        node.get("equation"), *(node.tensor(index) for index in range(len(node.values)))
    ),
}  # fmt: skip
