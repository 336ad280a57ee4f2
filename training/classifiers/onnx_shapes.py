"""The ONNX operators that arrange a tensor's axes and elements, and those that compute sizes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.classifiers.onnx_node import Node, Unsupported


def _shape(node: Node) -> Any:
    sizes = np.empty(node.tensor(0).dim(), dtype=object)
    sizes[:] = list(node.tensor(0).shape)
    return sizes[node.get("start", 0) : node.get("end", None)]


def _reshape(node: Node) -> Tensor:
    features, sizes = node.tensor(0), node.numbers(1, "shape") or []
    if not node.get("allowzero", 0):
        sizes = [
            features.shape[place] if isinstance(size, int) and size == 0 else size
            for place, size in enumerate(sizes)
        ]
    return features.reshape([*map(node.batch, sizes[:1]), *sizes[1:]])


def _flatten(node: Node) -> Tensor:
    features, axis = node.tensor(0), node.get("axis", 1)
    if axis == 1:
        return features.flatten(1)
    axis = axis % (features.dim() + 1)
    return features.reshape(math.prod(features.shape[:axis]), -1)


def _squeeze(node: Node) -> Tensor:
    features, axes = node.tensor(0), node.numbers(1, "axes")
    if axes is None:
        axes = [place for place in range(1, features.dim()) if features.shape[place] == 1]
    return features.squeeze([int(axis) for axis in axes])


def _unsqueeze(node: Node) -> Tensor:
    features, axes = node.tensor(0), node.numbers(1, "axes") or []
    dims = features.dim() + len(axes)
    for axis in sorted(axis % dims for axis in axes):
        features = features.unsqueeze(axis)
    return features


def _concat(node: Node) -> Tensor:
    return torch.cat([node.tensor(index) for index in range(len(node.values))], node.get("axis"))


def _split(node: Node) -> list[Tensor]:
    features, axis, sizes = node.tensor(0), node.get("axis", 0), node.numbers(1, "split")
    if sizes is None:
        whole, count = int(features.shape[axis]), len(node.outputs)
        each = -(-whole // count)
        sizes = [min(each, whole - each * place) for place in range(count)]
    return list(torch.split(features, sizes, axis))


def _slices(node: Node) -> list[tuple[int, Any, Any, int]]:
    starts, ends = node.numbers(1, "starts") or [], node.numbers(2, "ends") or []
    axes = node.numbers(3, "axes") or list(range(len(starts)))
    steps = node.numbers(4) or [1] * len(starts)
    return list(zip(axes, starts, ends, steps, strict=True))


def _slice(node: Node) -> Tensor:
    features = node.tensor(0)
    for axis, start, end, step in _slices(node):
        if step < 0:
            if end > -features.shape[axis] - 1 or start not in (-1, features.shape[axis] - 1):
                raise Unsupported("backwards, but for a whole axis")
            features, start, end, step = features.flip(axis), 0, None, -step
        index = [slice(None)] * (axis % features.dim())
        features = features[(*index, slice(start, end, step))]
    return features


def _gather(node: Node) -> Tensor:
    features, axis = node.tensor(0), node.get("axis", 0)
    if isinstance(node.values[1], np.ndarray) and node.values[1].ndim == 0:
        return features.select(axis, int(node.values[1]))
    places = node.tensor(1)
    size = features.shape[axis]
    places = torch.where(places < 0, places + size, places)
    picked = features.index_select(axis, places.flatten())
    axis = axis % features.dim()
    return picked.reshape([*features.shape[:axis], *places.shape, *features.shape[axis + 1 :]])


def _pad(node: Node) -> Tensor:
    features, pads = node.tensor(0), node.numbers(1, "pads") or []
    if node.opset < 2:
        pads = node.get("paddings", pads)
    fill: Any = node.numbers(2, "value")
    fill = fill[0] if isinstance(fill, list) else fill or 0.0
    dims = features.dim()
    if node.has(3):
        axes, given = [axis % dims for axis in node.numbers(3) or []], pads
        pads = [0] * 2 * dims
        for place, axis in enumerate(axes):
            pads[axis], pads[axis + dims] = given[place], given[place + len(axes)]
    sides = [int(pads[axis + end]) for axis in reversed(range(dims)) for end in (0, dims)]
    mode = node.get("mode", "constant")
    if mode == "constant":
        return F.pad(features, sides, value=fill)
    if mode not in ("reflect", "edge") or any(sides[4:]) or dims != 4:
        raise Unsupported(f"in mode {mode}, but at the borders of an image")
    return F.pad(features, sides[:4], mode="replicate" if mode == "edge" else mode)


def _expand(node: Node) -> Tensor:
    features, sizes = node.tensor(0), node.numbers(1) or []
    sizes = [*map(node.batch, sizes[:1]), *sizes[1:]]
    own = [1] * (len(sizes) - features.dim()) + list(features.shape)
    sizes = [1] * (features.dim() - len(sizes)) + list(sizes)
    wanted = [
        size if isinstance(old, int) and old == 1 else old
        for old, size in zip(own[-len(sizes) :], sizes, strict=True)
    ]
    return features.expand(wanted)


def _resize(node: Node) -> Tensor:
    features, mode = node.tensor(0), node.get("mode", "nearest")
    how = node.get("coordinate_transformation_mode", "half_pixel")
    upsample = node.kind == "Upsample"
    scales = node.numbers(1 if upsample or node.opset < 11 else 2, "scales")
    sizes = None if upsample or node.opset < 11 else node.numbers(3)
    if features.dim() != 4:
        raise Unsupported("in other than two dimensions")
    if not sizes:
        sizes = [int(size * by) for size, by in zip(features.shape, scales or [], strict=True)]
    whole = [int(size) for size in sizes[2:]]
    exact = all(big % int(small) == 0 for big, small in zip(whole, features.shape[2:], strict=True))
    if mode == "nearest" and (
        exact or (how == "asymmetric" and node.get("nearest_mode") == "floor")
    ):
        return F.interpolate(features, whole, mode="nearest")
    if mode == "linear" and how in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        corners = how == "align_corners"
        return F.interpolate(features, whole, mode="bilinear", align_corners=corners)
    raise Unsupported(f"in mode {mode} with {how}")


def _depth_to_space(node: Node) -> Tensor:
    features, side = node.tensor(0), node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(features, side)
    count, channels, height, width = features.shape
    parts = features.reshape(count, side, side, channels // side**2, height, width)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(count, -1, height * side, width * side)


def _space_to_depth(node: Node) -> Tensor:
    features, side = node.tensor(0), node.get("blocksize")
    count, channels, height, width = features.shape
    parts = features.reshape(count, channels, height // side, side, width // side, side)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(count, -1, height // side, width // side)


def _constant(node: Node) -> Any:
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if (found := node.get(name)) is not None:
            kind = np.float32 if "float" in name else np.int64 if "int" in name else None
            return np.asarray(found, dtype=kind)
    raise Unsupported("with other than numbers")


def _constant_of_shape(node: Node) -> Tensor:
    value = np.asarray(node.get("value", np.zeros(1, np.float32))).reshape(-1)[0]
    kind = torch.as_tensor(value).dtype
    return torch.full(node.numbers(0) or [], value.item(), dtype=kind)


def _range(node: Node) -> Tensor:
    start, end, step = ((node.numbers(index) or [0])[0] for index in range(3))
    return torch.arange(start, end, step)


SHAPES: dict[str, Callable[[Node], Any]] = {
    "Shape": _shape, "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze, "Concat": _concat, "Split": _split, "Slice": _slice,
    "Gather": _gather, "Pad": _pad, "Expand": _expand, "Resize": _resize, "Upsample": _resize,
    "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth,
    "Transpose": lambda node: node.tensor(0).permute(
        node.get("perm") or list(reversed(range(node.tensor(0).dim())))
    ),
    "Tile": lambda node: node.tensor(0).repeat(node.numbers(1) or []),
    "Constant": _constant, "ConstantOfShape": _constant_of_shape, "Range": _range,
}  # fmt: skip


def _numpy(function: Callable[..., Any]) -> Callable[[Node], Any]:
    return lambda node: np.asarray(function(*node.values), dtype=object)


def _sliced_sizes(node: Node) -> Any:
    ((_, start, end, step),) = _slices(node)
    return node.values[0][start:end:step]


SIZES: dict[str, Callable[[Node], Any]] = {
    "Shape": lambda node: np.asarray(node.values[0].shape, dtype=np.int64),
    "Identity": lambda node: node.values[0],
    "Cast": lambda node: node.values[0],
    "Gather": lambda node: np.asarray(
        node.values[0][np.asarray(node.values[1], dtype=np.int64)], dtype=object
    ),
    "Slice": _sliced_sizes,
    "Squeeze": lambda node: node.values[0].reshape([]),
    "Unsqueeze": lambda node: node.values[0].reshape([1]),
    "Reshape": lambda node: node.values[0].reshape(node.numbers(1)),
    "Concat": lambda node: np.concatenate([np.atleast_1d(value) for value in node.values]).astype(
        object
    ),
    "Add": _numpy(lambda a, b: a + b), "Sub": _numpy(lambda a, b: a - b),
    "Mul": _numpy(lambda a, b: a * b), "Div": _numpy(lambda a, b: a // b),
    "ReduceProd": lambda node: np.asarray([math.prod(node.values[0].tolist())], dtype=object),
    "Equal": _numpy(lambda a, b: [x == y for x, y in np.broadcast(a, b)]),
    "Where": _numpy(lambda c, a, b: [y if x else z for x, y, z in np.broadcast(c, a, b)]),
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
}  # fmt: skip
"""Arithmetic of sizes that depend on the batch: arrays of Python's numbers, or torch's symbols."""
