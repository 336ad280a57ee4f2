"""Interval bounds (Gowal et al. 2018): largest and smallest outputs of a network over all inputs
in a box around an image. What holds at the bounds is proved for the whole box.

The network is traced once (torch.fx), and every operation is then run on intervals. An affine layer
maps the centre of a box, and its half-widths through the absolute weights; a monotone operation
maps both ends; anything else is refused, never guessed. Bounds are sound up
to the rounding of float32.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional as F

from fend.errors import Invalid

_AFFINE = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
_MONOTONE_LAYERS = (
    nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
    nn.Flatten, nn.Identity, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle,
)  # fmt: skip
_MONOTONE_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset({
    operator.add, operator.getitem, torch.add, torch.cat, torch.relu, torch.tanh, torch.clamp,
    torch.flatten, F.relu, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.interpolate, F.pad,
    F.pixel_shuffle, F.pixel_unshuffle,
})  # fmt: skip
_MONOTONE_METHODS = frozenset(
    {"contiguous", "flatten", "view", "reshape", "relu", "tanh", "clamp", "clamp_min", "clamp_max"}
)


def _not_bounded(message: str) -> Invalid:
    return Invalid(message, code="not_bounded")


@dataclass(frozen=True)
class Interval:
    """Every tensor between `lower` and `upper`, element by element."""

    lower: Tensor
    upper: Tensor

    @property
    def shape(self) -> torch.Size:
        """Shape of both tensors."""
        return self.lower.shape


def box(images: Tensor, epsilon: float) -> Interval:
    """The L-inf ball of radius `epsilon` around images (N,C,H,W) in [0, 1], clipped to [0, 1]."""
    return Interval((images - epsilon).clamp(min=0.0), (images + epsilon).clamp(max=1.0))


class Bounds:
    """Bounds of one network, whose weights may go on changing.

    Raises:
        Invalid (`not_bounded`): it cannot be traced, or a call meets an operation without bounds.
    """

    def __init__(self, network: nn.Module) -> None:
        whole = nn.Sequential(network)  # fx cannot trace a single layer by itself
        try:
            traced = fx.GraphModule(whole, _Tracer().trace(whole))
        except (fx.proxy.TraceError, TypeError) as error:
            raise _not_bounded(f"{type(network).__name__} cannot be traced: {error}") from error
        self._whole = _OnIntervals(traced)
        self._last = _last_layer(traced)
        self._before = _OnIntervals(_without_last_layer(traced)) if self._last else None

    def outputs(self, inputs: Interval) -> Interval:
        """Bounds of the network's outputs for inputs (N, ...)."""
        bounds: Interval = self._whole.run(inputs)
        return bounds

    def margins(self, inputs: Interval, labels: Tensor) -> Tensor:
        """Upper bound of each logit minus the label's: (N, classes), 0 at the labels (N,).

        Where all others are below 0, every input of the box is classified as the label. The last
        linear layer and the subtraction are bounded as one, which is tighter than subtracting
        bounds.
        """
        rows = torch.arange(len(labels), device=labels.device)
        if self._last is None or self._before is None:
            logits = self.outputs(inputs)
            above = logits.upper - logits.lower[rows, labels].unsqueeze(1)
            return above.index_put((rows, labels), above.new_zeros(()))
        features: Interval = self._before.run(inputs)
        centre, radius = _centre_and_radius(features)
        weight = self._last.weight - self._last.weight[labels].unsqueeze(1)  # (N, classes, F)
        above = torch.einsum("ncf,nf->nc", weight, centre)
        above = above + torch.einsum("ncf,nf->nc", weight.abs(), radius)
        if self._last.bias is not None:
            above = above + self._last.bias - self._last.bias[labels].unsqueeze(1)
        return above


@torch.no_grad()
def verified(bounds: Bounds, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Images (N,C,H,W) proved to be labelled right in the whole L-inf ball: bool (N,)."""
    margins = bounds.margins(box(images, epsilon), labels)
    rows = torch.arange(len(labels), device=labels.device)
    margins[rows, labels] = -torch.inf
    return margins.amax(1) < 0


class _Tracer(fx.Tracer):
    """Traces each bounded layer as one operation, subclasses of torch's layers included."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        layers = (*_AFFINE, *_MONOTONE_LAYERS)
        return isinstance(m, layers) or super().is_leaf_module(m, module_qualified_name)


class _OnIntervals(fx.Interpreter):
    """Runs a traced network on intervals; operations without an interval argument run unchanged."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # a refusal is one line

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        layer = self.fetch_attr(target)
        if isinstance(layer, _AFFINE):
            return _affine(layer, args[0])
        if isinstance(layer, _MONOTONE_LAYERS) and getattr(layer, "mode", None) != "bicubic":
            return _at_both_ends(layer, args, kwargs)
        raise _not_bounded(f"there are no bounds for the layer {type(layer).__name__}")

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if not _holds_interval(args):
            return super().call_function(target, args, kwargs)
        if target is getattr and args[1] == "shape":
            return args[0].shape
        # Bicubic weights can be negative, and so can the factor in a + alpha * b.
        odd = "bicubic" in (*args, *kwargs.values()) or "alpha" in kwargs
        if target in _MONOTONE_FUNCTIONS and not odd:
            return _at_both_ends(target, args, kwargs)
        if target in (operator.sub, torch.sub) and not odd:
            return Interval(_lower(args[0]) - _upper(args[1]), _upper(args[0]) - _lower(args[1]))
        if target in (operator.mul, operator.truediv) and isinstance(args[1], int | float):
            return _scaled(args[0], target(1.0, args[1]))
        if target is operator.mul and isinstance(args[0], int | float):
            return _scaled(args[1], float(args[0]))
        raise _not_bounded(f"there are no bounds for the operation {target.__name__}")

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        if not _holds_interval(args):
            return super().call_method(target, args, kwargs)
        if target == "size":
            return args[0].lower.size(*args[1:], **kwargs)
        if target in _MONOTONE_METHODS:
            return _at_both_ends(getattr(Tensor, target), args, kwargs)
        raise _not_bounded(f"there are no bounds for the operation {target}")


def _affine(layer: nn.Module, inputs: Interval) -> Interval:
    centre, radius = _centre_and_radius(inputs)
    weights = {"weight": layer.get_parameter("weight").abs()}
    if layer.bias is not None:
        weights["bias"] = torch.zeros_like(layer.get_parameter("bias"))
    middle, spread = layer(centre), functional_call(layer, weights, (radius,))
    return Interval(middle - spread, middle + spread)


def _at_both_ends(operation: Callable[..., Tensor], args: Any, kwargs: Any) -> Interval:
    """The image of an interval under a monotone operation."""
    return Interval(
        operation(*_each(_lower, args), **kwargs), operation(*_each(_upper, args), **kwargs)
    )


def _scaled(interval: Interval, factor: float) -> Interval:
    ends = (interval.lower * factor, interval.upper * factor)
    return Interval(*ends) if factor >= 0 else Interval(*ends[::-1])


def _centre_and_radius(interval: Interval) -> tuple[Tensor, Tensor]:
    return (interval.lower + interval.upper) / 2, (interval.upper - interval.lower) / 2


def _lower(value: Any) -> Any:
    return value.lower if isinstance(value, Interval) else value


def _upper(value: Any) -> Any:
    return value.upper if isinstance(value, Interval) else value


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """`change` applied to every item of nested lists and tuples, such as torch.cat's arguments."""
    if isinstance(value, tuple | list):
        return type(value)(_each(change, item) for item in value)
    return change(value)


def _holds_interval(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_holds_interval(item) for item in value)
    return isinstance(value, Interval)


def _last_layer(traced: fx.GraphModule) -> nn.Linear | None:
    """The linear layer that the network ends with; None where it does not."""
    node = traced.graph.output_node().args[0]
    if isinstance(node, fx.Node) and node.op == "call_module":
        layer = traced.get_submodule(str(node.target))
        if isinstance(layer, nn.Linear):
            return layer
    return None


def _without_last_layer(traced: fx.GraphModule) -> fx.GraphModule:
    """The same layers (not copies), with the last one's input as the output."""
    last = traced.graph.output_node().args[0]
    assert isinstance(last, fx.Node)
    features = last.args[0]
    assert isinstance(features, fx.Node)
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    for node in traced.graph.nodes:
        if node is last:
            break
        values[node] = graph.node_copy(node, lambda before: values[before])
    graph.output(values[features])
    return fx.GraphModule(traced, graph)
