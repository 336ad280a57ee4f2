"""Equation 4: the denoised image must match the clean one in pixels and in feature maps."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Scaling = Literal["elements", "magnitude"]
Distance = Literal["squared", "absolute"]

_MEANS: Mapping[Distance, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"squared": F.mse_loss, "absolute": F.l1_loss}
)


class FeatureLoss(nn.Module):
    """sum_l weight * mean |phi_l(x_d) - phi_l(x)|^2 + pixel_weight * mean |x_d - x|^2.

    The paper weighs each term by one over its number of elements, which makes every term a plain
    mean (`scaling="elements"`). `magnitude` divides each mean, the pixels' too, by the same mean of
    what is compared on clean images: all terms are relative errors, whatever the network.
    `distance="absolute"` leaves the squares out, as HGD does.

    `network` gives the feature maps phi_l of images by name; without one only pixels are compared.
    Its convolutions run in `precision`; the maps are compared in float32 whatever it is.
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
    def calibrate(self, clean: Tensor) -> None:
        """Measure the magnitude of each term on a batch of clean images (N,C,H,W)."""
        if self.scaling == "magnitude":
            compared = {"pixel": clean, **self.targets(clean)}
            self._divisors = {
                name: float(self._mean(maps, torch.zeros_like(maps)))
                for name, maps in compared.items()
            }

    @torch.no_grad()
    def targets(self, clean: Tensor) -> dict[str, Tensor]:
        """The feature maps that the denoised images must match; no gradient goes through them."""
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
