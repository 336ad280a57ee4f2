"""A convolution over images whose gradient towards the image is cheap on a CPU.

oneDNN computes the gradient towards one or three channels as a convolution with as few outputs,
which leaves its vector units idle: five to ten times slower than the forward pass, and for a small
network most of an attack's time. As a matrix product followed by col2im it costs a third or less.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

MOST_CHANNELS = 3
"""With more, oneDNN is the faster (measured up to 7x7 kernels)."""


class ImageConv2d(nn.Conv2d):
    """`nn.Conv2d` with another way to the image's gradient: same weights, same answers."""

    def forward(self, images: Tensor) -> Tensor:
        """(N,C,H,W) to (N,D,H',W')."""
        if images.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(images)
        stride, padding = cast(tuple[int, int], self.stride), cast(tuple[int, int], self.padding)
        return cast(Tensor, _Convolution.apply(images, self.weight, self.bias, stride, padding))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.has_bias, ctx.stride, ctx.padding = bias is not None, stride, padding
        return functional.conv2d(images, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        to_images = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            columns = weight.flatten(1).t() @ gradient.flatten(2)
            to_images = functional.fold(
                columns, images.shape[2:], weight.shape[2:], padding=ctx.padding, stride=ctx.stride
            )
        if any(ctx.needs_input_grad[1:3]):
            _, to_weight, to_bias = torch.ops.aten.convolution_backward(
                gradient, images, weight, [len(weight)] if ctx.has_bias else None,
                ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, (False, True, ctx.has_bias),
            )  # fmt: skip
        return to_images, to_weight, to_bias, None, None


def with_image_convs(module: nn.Module) -> nn.Module:
    """`module`, every convolution over few channels in it replaced; parameters are kept."""
    for name, child in module.named_children():
        if type(child) is nn.Conv2d and _fits(child):
            setattr(module, name, _replaced(child))
        else:
            with_image_convs(child)
    return module


def _fits(conv: nn.Conv2d) -> bool:
    return (
        conv.in_channels <= MOST_CHANNELS
        and conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def _replaced(conv: nn.Conv2d) -> ImageConv2d:
    replaced = ImageConv2d(
        conv.in_channels,
        conv.out_channels,
        cast(tuple[int, int], conv.kernel_size),
        cast(tuple[int, int], conv.stride),
        cast(tuple[int, int], conv.padding),
        bias=conv.bias is not None,
        device="meta",
    )
    replaced.weight, replaced.bias = conv.weight, conv.bias
    return replaced.train(conv.training)
