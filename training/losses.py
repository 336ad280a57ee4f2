"""Equation 4: the denoised image must match the clean one in pixels and in feature maps."""

from typing import Literal

import torch
from torch import Tensor, nn

from training.loss_networks import LossNetwork

Scaling = Literal["elements", "magnitude"]


class FeatureLoss(nn.Module):
    """sum_l weight_l * |phi_l(x_d) - phi_l(x)|^2 + pixel_weight * mean |x_d - x|^2.

    The paper weighs each term by one over its number of elements, which makes every term a plain
    mean (`scaling="elements"`). `magnitude` divides each mean, the pixels' too, by the mean square
    of what is compared on clean images: all terms are relative errors, whatever the network.
    """

    def __init__(
        self,
        network: LossNetwork | None,
        *,
        scaling: Scaling,
        feature_weight: float,
        pixel_weight: float,
    ) -> None:
        super().__init__()
        self.network = network
        self.scaling = scaling
        self.feature_weight = feature_weight
        self.pixel_weight = pixel_weight
        self._divisors: dict[str, float] = {}

    @torch.no_grad()
    def calibrate(self, clean: Tensor) -> None:
        """Measure the magnitude of each term on a batch of clean images (N,C,H,W)."""
        if self.scaling == "magnitude":
            compared = {"pixel": clean, **self.targets(clean)}
            self._divisors = {name: float(m.square().mean()) for name, m in compared.items()}

    @torch.no_grad()
    def targets(self, clean: Tensor) -> dict[str, Tensor]:
        """The feature maps that the denoised images must match; no gradient goes through them."""
        return {} if self.network is None else self.network(clean)

    def terms(
        self, denoised: Tensor, clean: Tensor, targets: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Each weighted term by name; their sum is the loss.

        `denoised` and `clean` are (N,C,H,W) in [0, 1]; `targets` comes from `targets(clean)`.
        """
        terms = {"pixel": self.pixel_weight * (denoised - clean).square().mean()}
        if self.network is not None:
            for name, maps in self.network(denoised).items():
                error = (maps - targets[name].to(maps.dtype)).square().mean()
                terms[name] = self.feature_weight * error
        return {name: term / self._divisors.get(name, 1.0) for name, term in terms.items()}
