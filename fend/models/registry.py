"""From the name and configuration in a bundle to a module with fresh weights."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from fend.errors import Invalid
from fend.models.architectures.autoencoder import PaperAutoencoder
from fend.models.architectures.bit_depth import BitDepth
from fend.models.architectures.controls import (
    GradientKiller,
    NanGradient,
    RandomResize,
    ScaledLogits,
)
from fend.models.architectures.feature_denoise_lenet import FeatureDenoiseLeNet
from fend.models.architectures.hgd_unet import DenoisingUNet
from fend.models.architectures.lenet import PaperLeNet
from fend.models.architectures.median_filter import MedianFilter
from fend.models.architectures.noise_reduction import NoiseReduction
from fend.models.architectures.non_local_means import NonLocalMeans
from fend.models.architectures.plain_cnn import PlainCNN
from fend.models.architectures.plain_denoiser import PlainDenoiser
from fend.models.architectures.preact_resnet import PreActResNet
from fend.models.architectures.resnet import ResNet18
from fend.models.architectures.unet import ResidualUNet
from fend.models.graph import GraphNetwork
from fend.models.image_conv import with_image_convs

MAX_STAGES = 100


def _sequence(stages: Sequence[nn.Module]) -> nn.Module:
    """One after the other, such as a median filter after a reduced bit depth."""
    return nn.Sequential(*stages)


ARCHITECTURES: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        # Denoisers that learn
        "paper-autoencoder": PaperAutoencoder,
        "residual-unet": ResidualUNet,
        "hgd-unet": DenoisingUNet,
        "plain-denoiser": PlainDenoiser,
        # Denoisers that do not
        "identity": nn.Identity,
        "bit-depth": BitDepth,
        "median-filter": MedianFilter,
        "non-local-means": NonLocalMeans,
        "noise-reduction": NoiseReduction,
        "sequence": _sequence,
        # Classifiers
        "paper-lenet": PaperLeNet,
        "plain-cnn": PlainCNN,
        "feature-denoise-lenet": FeatureDenoiseLeNet,
        "resnet-18": ResNet18,
        "preact-resnet": PreActResNet,
        "graph": GraphNetwork,
        # Known-bad controls: never to be served as defences
        "control-gradient-killer": GradientKiller,
        "control-nan-gradient": NanGradient,
        "control-random-resize": RandomResize,
        "control-scaled-logits": ScaledLogits,
    }
)


def build(architecture: str, config: Mapping[str, Any]) -> nn.Module:
    """A new module with random weights.

    A network inside another is written {"architecture": ..., "config": {...}}, under the key
    `inner`, or several of them in a list under `stages`.

    Raises:
        Invalid (`architecture_unknown`): there is no such name, or it does not take this
            configuration.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise Invalid(
            f"no architecture {architecture!r}; there are: {known}", code="architecture_unknown"
        )
    try:
        return with_image_convs(ARCHITECTURES[architecture](**_with_networks(config)))
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        raise Invalid(
            f"{architecture} cannot be built from {dict(config)!s:.300}: "
            f"{str(error).partition(chr(10))[0]}",
            code="architecture_unknown",
        ) from error


def _with_networks(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the networks in it built."""
    options = dict(config)
    if "inner" in options:
        options["inner"] = _network(options["inner"])
    if "stages" in options:
        if len(options["stages"]) > MAX_STAGES:
            raise ValueError(f"a sequence has at most {MAX_STAGES} stages")
        options["stages"] = [_network(stage) for stage in options["stages"]]
    return options


def _network(written: Mapping[str, Any]) -> nn.Module:
    if not isinstance(written, Mapping) or not set(written) <= {"architecture", "config"}:
        raise ValueError(f'a network inside is {{"architecture", "config"}}, not {written!r}')
    return build(written.get("architecture", ""), written.get("config", {}))


def parameter_count(module: nn.Module) -> int:
    """How many numbers `module` learns."""
    return sum(parameter.numel() for parameter in module.parameters())
