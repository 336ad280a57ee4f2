"""The model under attack, behind the calls that count passes and watch for failure."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from fend.attacks.diagnostics import Diagnostics
from fend.attacks.lazy import Tensor, torch
from fend.errors import Invalid

Predict = Callable[[Tensor], Tensor]
"""Images (N,C,H,W) in [0, 1] to logits (N, classes); modules in eval mode. Differentiable, or its
gradient counts as zero."""


class FeaturePredict(Protocol):
    """A `Predict` that also shows what it decides by, which `feature_distance` needs."""

    def __call__(self, images: Tensor, /) -> Tensor: ...
    def features(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to features (N,F), differentiable."""
        ...


@dataclass
class Victim:
    """The attacked model, with a count of the images that went through it each way.

    `rows` (long) say which rows of the problem's batch the asked images are attempts for.
    """

    predict: Predict
    diagnostics: Diagnostics
    forward_passes: int = 0
    backward_passes: int = 0

    def logits(self, images: Tensor, rows: Tensor) -> Tensor:
        """Logits (N, classes) without a gradient."""
        self.forward_passes += len(images)
        with torch.no_grad():
            logits = self.predict(images)
        self.diagnostics.see_answers(images, logits, rows)
        return logits

    def gradient(
        self, images: Tensor, values: Callable[[Tensor], Tensor], rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient (N,C,H,W), logits (N, classes) and values (N,) at `images`.

        `values` makes of logits (N, classes) the number (N,) to differentiate. The gradient is
        that of the *sum* over images: a mean would scale each image by its batch. It is zero where
        the model has none, and where it is NaN or infinite.
        """
        self.forward_passes += len(images)
        with torch.enable_grad():
            leaf = images.detach().requires_grad_(True)
            logits = self.predict(leaf)
            per_image = values(logits)
            gradient = self._backward(leaf, per_image, rows)
        logits = logits.detach()
        self.diagnostics.see_answers(images, logits, rows)
        return gradient, logits, per_image.detach()

    @cached_property
    def clean_features(self) -> Tensor:
        """(N,F), of the whole batch."""
        with torch.no_grad():
            return self._features(self.diagnostics.images)

    def feature_distance(self, images: Tensor, rows: Tensor) -> Tensor:
        """The squared distance (N,) of the features to those of the clean images."""
        return (self._features(images) - self.clean_features[rows]).square().sum(1)

    def feature_gradient(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (N,C,H,W) of `feature_distance`, and its values (N,)."""
        with torch.enable_grad():
            leaf = images.detach().requires_grad_(True)
            distance = self.feature_distance(leaf, rows)
            # At the clean image itself the gradient is zero for every model.
            moved = (images != self.diagnostics.images[rows]).flatten(1).any(1)
            gradient = self._backward(leaf, distance, rows, moved)
        return gradient, distance.detach()

    def _features(self, images: Tensor) -> Tensor:
        features = getattr(self.predict, "features", None)
        if not callable(features):
            raise Invalid(
                "objective.loss: 'feature_distance' needs a model with a method `features`, and "
                f"{type(self.predict).__name__} has none; use another loss",
                code="attack_invalid",
            )
        self.forward_passes += len(images)
        found: Tensor = features(images)
        return found.flatten(1)

    def _backward(
        self, leaf: Tensor, per_image: Tensor, rows: Tensor, telling: Tensor | None = None
    ) -> Tensor:
        self.backward_passes += len(leaf)
        gradient = None
        if per_image.requires_grad:
            (gradient,) = torch.autograd.grad(per_image.sum(), leaf, allow_unused=True)
        if gradient is None:  # something on the way cut the graph
            gradient = torch.zeros_like(leaf, requires_grad=False)
        return self.diagnostics.sanitize(gradient, rows, telling)
