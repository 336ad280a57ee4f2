"""A foreign classifier: a function of the user's returns it, and it stays unchanged.

    module = factory()  ->  weights loaded  ->  torch.export  ->  graph (fend.models.graph)

The user's code runs here and nowhere else. Training, audits and the service use the graph, which is
data in the bundle.
"""

import hashlib
import importlib
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fend.errors import FendError, Invalid
from fend.images import InputSpec
from fend.models import build
from fend.models.graph import INPUT
from fend.pipeline import frozen
from training.classifiers.graph import graph_of

ARCHITECTURE = "graph"
TOLERANCE = 1e-4
"""Largest difference between logits of graph and module, as a share of the largest logit."""


class ForeignInvalid(Invalid):
    """The user's classifier cannot be used; the message says what to change."""

    code = "classifier_invalid"


@dataclass(frozen=True)
class Origin:
    """Origin of a foreign classifier."""

    factory: str
    weights: str | None
    """Name of the weights file, without its folder; None where the factory set the weights."""
    weights_sha256: str | None
    tensors_sha256: str
    """Digest of all its tensors by name, see `digest_of`."""
    names: tuple[str, ...]
    """Names of its tensors; the graph may hold more, such as constants of its code."""

    def about(self) -> dict[str, Any]:
        """The record for a bundle's manifest."""
        return {
            "factory": self.factory,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "tensors": len(self.names),
            "tensors_sha256": self.tensors_sha256,
        }

    def check(self, module: nn.Module) -> None:
        """Raises ForeignInvalid unless `module` still holds exactly these tensors."""
        state = module.state_dict()
        if digest_of({name: state[name] for name in self.names}) != self.tensors_sha256:
            raise ForeignInvalid(f"{self.factory}: its weights were changed; nothing is exported")


def take(
    factory: str, weights: Path | None, input_spec: InputSpec, classes: int
) -> tuple[nn.Module, dict[str, Any], Origin]:
    """The classifier that `factory` ("package.module:function") returns, as a frozen graph network;
    the configuration of that graph; and its origin.

    `weights` is a safetensors file with exactly the module's tensors; None keeps the module's own.

    Raises:
        ForeignInvalid: the factory, the module or the weights cannot be used.
    """
    module = frozen(_build(factory))
    if weights is not None:
        _load(module, weights)
    state = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
    images = _examples(input_spec)
    _try(factory, module, images, classes)
    try:
        config, constants = graph_of(module, images[:2], INPUT)
        network = frozen(build(ARCHITECTURE, config))
    except FendError as error:
        raise ForeignInvalid(f"{factory}: {error}") from error
    network.load_state_dict(state | constants)
    _compare(factory, module, network, images)
    origin = Origin(
        factory=factory,
        weights=None if weights is None else weights.name,
        weights_sha256=None if weights is None else _sha256(weights.read_bytes()),
        tensors_sha256=digest_of(state),
        names=tuple(state),
    )
    origin.check(network)
    return network, config, origin


def digest_of(state: dict[str, Tensor]) -> str:
    """SHA-256 of the tensors as one safetensors file without metadata."""
    return _sha256(save({key: tensor.cpu().contiguous() for key, tensor in state.items()}))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _build(factory: str) -> nn.Module:
    name, colon, attribute = factory.partition(":")
    if not colon or not name or not attribute:
        raise ForeignInvalid(f"{factory!r} is not package.module:function, such as mine:classifier")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # finds files in the current folder, as `python -m` does
    try:
        function = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        raise ForeignInvalid(f"{factory}: {error}; it is looked for in {here} too") from error
    finally:
        sys.path.remove(here)
    module = function()
    if not isinstance(module, nn.Module):
        raise ForeignInvalid(f"{factory} gives a {type(module).__name__}, not a torch.nn.Module")
    return module


def _load(module: nn.Module, weights: Path) -> None:
    try:
        module.load_state_dict(load_file(weights))
    except (OSError, SafetensorError) as error:
        raise ForeignInvalid(
            f"{weights} is not a safetensors file ({error}); write one with "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW_FILE)"
        ) from error
    except RuntimeError as error:
        raise ForeignInvalid(f"{weights} does not fit the classifier: {error}") from error


def _examples(spec: InputSpec) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(5, spec.channels, spec.height_px, spec.width_px, generator=generator)


@torch.no_grad()
def _try(factory: str, module: nn.Module, images: Tensor, classes: int) -> None:
    """Raises ForeignInvalid unless it gives one logit per class, for each image on its own."""
    shape = "x".join(str(size) for size in images.shape[1:])
    try:
        logits = module(images)
    except RuntimeError as error:
        raise ForeignInvalid(f"{factory} does not take images of {shape}: {error}") from error
    wanted = (len(images), classes)
    if not isinstance(logits, Tensor) or logits.shape != wanted:
        said = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ForeignInvalid(f"{factory} must give logits {wanted} for {shape} images, not {said}")
    alone = torch.cat([module(image) for image in torch.split(images, 1)])
    if _distance(alone, logits) > TOLERANCE:
        raise ForeignInvalid(
            f"{factory}: the answer to an image depends on its batch, or on chance; in eval mode "
            "it must not"
        )


def _compare(factory: str, module: nn.Module, network: nn.Module, images: Tensor) -> None:
    """Raises ForeignInvalid where the graph's logits or gradients differ from the module's."""
    answers = []
    for model in (module, network):
        leaf = images.clone().requires_grad_(True)
        logits = model(leaf)
        if not logits.requires_grad:
            raise ForeignInvalid(f"{factory} cannot be differentiated, so nothing can be learnt")
        (gradient,) = torch.autograd.grad(logits.square().sum(), leaf)
        answers.append((logits.detach(), gradient))
    (logits, gradient), (again, gradient_again) = answers
    if _distance(again, logits) > TOLERANCE or _distance(gradient_again, gradient) > TOLERANCE:
        raise ForeignInvalid(f"{factory}: torch.export gives other answers than the module")


def _distance(some: Tensor, others: Tensor) -> float:
    scale = float(others.abs().max())
    distance = float((some - others).abs().max())
    return distance / max(scale, 1e-12) if math.isfinite(distance) else math.inf
