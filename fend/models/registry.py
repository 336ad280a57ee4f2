"""From the name and configuration in a bundle to a module with fresh weights."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from fend.errors import FendError
from fend.models.autoencoder import PaperAutoencoder
from fend.models.lenet import PaperLeNet
from fend.models.unet import ResidualUNet

ARCHITECTURES: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "paper-autoencoder": PaperAutoencoder,
        "paper-lenet": PaperLeNet,
        "residual-unet": ResidualUNet,
        "identity": nn.Identity,
    }
)


class UnknownArchitecture(FendError):
    """The registry has no such architecture, or it does not take such a configuration."""

    code = "architecture_unknown"


def build(architecture: str, config: Mapping[str, Any]) -> nn.Module:
    """A new module with random weights.

    Raises:
        UnknownArchitecture: no such name, or a configuration key that it does not take.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnknownArchitecture(f"no architecture {architecture!r}; there are: {known}")
    try:
        return ARCHITECTURES[architecture](**config)
    except TypeError as error:
        raise UnknownArchitecture(
            f"{architecture} cannot be built from {config}: {error}"
        ) from error


def parameter_count(module: nn.Module) -> int:
    """How many numbers `module` learns."""
    return sum(parameter.numel() for parameter in module.parameters())
