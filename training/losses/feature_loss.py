"""Equation 4: the denoised image must match the clean one in pixels and in feature maps."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fend.datasets import ImageSet
from fend.models.memory import images_at_once
from training.losses.networks import LossNetwork, load_loss_network
from training.recipe.schema import Distance, GuideTap, LossSection, RecipeError, Scaling

_MEANS: Mapping[Distance, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"squared": F.mse_loss, "absolute": F.l1_loss}
)


_MANY = 250
"""Images at once, from which on a thousand without gradients are no matter."""
_CALIBRATED_PIXELS = 2**26


class FeatureLoss(nn.Module):
    """sum_l weight * mean |phi_l(x_d) - phi_l(x)|^2 + pixel_weight * mean |x_d - x|^2.

    The paper weighs each term by one over its number of elements, which makes every term a plain
    mean (`scaling="elements"`). `magnitude` also divides each mean, pixels included, by the mean
    square (or absolute value) of the same maps of clean images, so that all terms are relative
    errors, whatever the network. `distance="absolute"` omits the squares, as HGD does.

    `network` maps images to the feature maps phi_l by name; without one only pixels are compared.
    Its convolutions run in `precision`; the maps are always compared in float32.
    """

    def __init__(
        self,
        network: nn.Module | None,
        *,
        scaling: Scaling,
        feature_weight: float,
        pixel_weight: float,
        distance: Distance = "squared",
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = network if feature_weight else None
        self.scaling = scaling
        self.feature_weight = feature_weight
        self.pixel_weight = pixel_weight
        self.precision = precision
        self._mean = _MEANS[distance]
        self._divisors: dict[str, float] = {}

    @torch.no_grad()
    def calibrate(self, images: ImageSet, device: torch.device) -> None:
        """Measure the magnitude of each term on the first thousand of clean `images`, or as many as
        memory allows."""
        if self.scaling == "magnitude":
            shape = images.images.shape[1:]
            at_once = images_at_once(self.network or nn.Identity(), shape, _MANY)
            count = 4 * _MANY if at_once == _MANY else at_once
            most = max(1, _CALIBRATED_PIXELS // shape.numel())
            clean = images.pixels(slice(0, min(count, most))).to(device)
            compared = {"pixel": clean, **self.targets(clean)}
            self._divisors = {
                name: float(self._mean(maps, torch.zeros_like(maps)))
                for name, maps in compared.items()
            }

    @torch.no_grad()
    def targets(self, clean: Tensor) -> dict[str, Tensor]:
        """The feature maps that denoised images must match, without a gradient."""
        return self._maps(clean)

    def terms(
        self, denoised: Tensor, clean: Tensor, targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Each weighted term by name; their sum is the loss.

        `denoised` and `clean` are (N,C,H,W) in [0, 1]; `targets` comes from `targets(clean)`.
        """
        terms = {}
        if self.pixel_weight:
            terms["pixel"] = self.pixel_weight * self._mean(denoised, clean)
        for name, maps in self._maps(denoised).items():
            error = self._mean(maps, targets[name].to(maps.dtype))
            terms[name] = self.feature_weight * error
        return {name: term / self._divisors.get(name, 1.0) for name, term in terms.items()}

    def _maps(self, images: Tensor) -> dict[str, Tensor]:
        if self.network is None:
            return {}
        lower = self.precision != torch.float32
        with torch.autocast(images.device.type, self.precision, enabled=lower):
            maps = self.network(images)
        return {name: one.float() for name, one in maps.items()}


class ClassifierGuide(nn.Module):
    """The frozen classifier's last convolutional features, or its logits, as a feature map.

    The features are the input of the first fully connected layer, whatever the architecture.

    Raises:
        ValueError: `tap` is `features` and the classifier has no fully connected layer.
    """

    def __init__(self, classifier: nn.Module, tap: GuideTap) -> None:
        super().__init__()
        self.classifier = classifier
        self.tap = tap
        layers = (layer for layer in classifier.modules() if isinstance(layer, nn.Linear))
        self._first_linear = next(layers, None)
        if tap == "features" and self._first_linear is None:
            raise ValueError(f"{type(classifier).__name__} has no fully connected layer")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N,C,H,W) in [0, 1] to one map (N,F) by the name of the tap."""
        if self.tap == "logits" or self._first_linear is None:
            return {"logits": self.classifier(images)}
        features: list[Tensor] = []

        def remember(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            features.append(inputs[0])

        hook = self._first_linear.register_forward_pre_hook(remember)
        try:
            self.classifier(images)
        finally:
            hook.remove()
        return {"features": features[0]}


def feature_loss(
    section: LossSection, classifier: nn.Module, data_dir: Path | None, device: torch.device
) -> FeatureLoss:
    """The loss of a recipe on `device`, with its network loaded, and compiled on a GPU.

    TORCH_COMPILE_DISABLE=1, torch's own switch, turns compiling off.

    Raises:
        Invalid: the loss network is not available.
        RecipeError: the classifier has no features to compare.
    """
    network = _feature_network(section, classifier, data_dir)
    if isinstance(network, LossNetwork) and device.type == "cuda":
        network.compile()
    return FeatureLoss(
        network,
        scaling=section.scaling,
        feature_weight=section.feature_weight,
        pixel_weight=section.pixel_weight,
        distance=section.distance,
        precision=torch.float32 if section.precision is None else torch.bfloat16,
    ).to(device)


def _feature_network(
    section: LossSection, classifier: nn.Module, data_dir: Path | None
) -> nn.Module | None:
    """The source of the loss's feature maps; None where only pixels are compared."""
    if section.network is None or not section.feature_weight:
        return None
    if section.network != "classifier":
        return load_loss_network(section.network, section.taps, data_dir, input_px=section.input_px)
    try:
        return ClassifierGuide(classifier, cast(GuideTap, section.taps))  # the recipe was checked
    except ValueError as error:
        raise RecipeError(f"loss.taps: {error}") from error
