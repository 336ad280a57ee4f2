"""The model that an attack sees at each level of knowledge, and how its gradient is taken."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fend.audit.plan import PlannedLine
from fend.errors import Invalid
from fend.pipeline import Defence

REPEAT_TOLERANCE = 1e-4
"""Repeated answers that differ by more (see `variation`) are random, not rounding."""


class IdentityBackward(nn.Module):
    """`inner` forward, nothing backward: BPDA, the backward pass differentiable approximation
    (Athalye et al. 2018) by the identity. `inner` keeps the shape of its input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        """Exactly what `inner` gives; the gradient is that of `images`."""
        output: Tensor = self.inner(images).detach()
        return output + (images - images.detach())  # zeros, so that nothing is rounded


@dataclass(frozen=True)
class AttackedModel:
    """Logits, and the features that they are made of: what `fend.attacks` asks for.

    Both are the mean of `samples` passes (EOT), so that for a pipeline that answers at random the
    gradient is averaged over its draws, and one lucky draw does not count as success. In a batch,
    every image has draws of its own.
    """

    pipeline: nn.Module
    """Images to logits, in eval mode; a `Defence` or a classifier."""
    classifier: nn.Module
    """`pipeline` itself, or the part of it that decides."""
    samples: int = 1

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to logits (N, classes)."""
        total: Tensor = self.pipeline(images)
        for _ in range(self.samples - 1):
            total = total + self.pipeline(images)
        return total / self.samples

    def features(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to the classifier's penultimate features (N,F).

        Raises:
            Invalid (`attack_invalid`): no layer of the classifier has weights.
        """
        total = self._features(images)
        for _ in range(self.samples - 1):
            total = total + self._features(images)
        return total / self.samples

    def _features(self, images: Tensor) -> Tensor:
        """What goes into the layer with weights that is called last, whatever the architecture."""
        inputs: list[Tensor] = []

        def remember(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs[:] = arguments[:1]

        hooks = [
            layer.register_forward_pre_hook(remember)
            for layer in self.classifier.modules()
            if any(True for _ in layer.parameters(recurse=False))
        ]
        try:
            self.pipeline(images)
        finally:
            for hook in hooks:
                hook.remove()
        if not inputs:
            raise Invalid(
                "loss 'feature_distance' needs a classifier with a layer that has weights, and "
                f"{type(self.classifier).__name__} has none; use another loss",
                code="attack_invalid",
            )
        return inputs[0].flatten(1)


def attacked_model(target: Defence, surrogate: Defence | None, line: PlannedLine) -> AttackedModel:
    """The model that a line attacks, of the audited one or the attacker's own."""
    known = target
    if line.level.surrogate:
        assert surrogate is not None, "open_audit finds a surrogate for the levels that need one"
        known = surrogate
    if not line.level.denoiser:
        return AttackedModel(known.classifier, known.classifier, line.gradient.samples)
    if line.gradient.denoiser == "identity":
        known = Defence(IdentityBackward(known.denoiser), known.classifier).eval()
    return AttackedModel(known, known.classifier, line.gradient.samples)


@torch.no_grad()
def variation(model: nn.Module, images: Tensor, passes: int = 5) -> Tensor:
    """How much repeated answers on the same batch differ: (N,).

    The largest difference of a logit to the first pass, relative to the largest logit (at least 1).
    NaN that stays NaN is no difference.
    """
    first = torch.nan_to_num(model(images))
    scale = first.abs().amax(1).clamp_min(1.0)
    largest = torch.zeros_like(scale)
    for _ in range(passes - 1):
        again = torch.nan_to_num(model(images))
        largest = torch.maximum(largest, (again - first).abs().amax(1) / scale)
    return largest
