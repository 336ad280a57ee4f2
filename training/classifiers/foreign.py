"""A classifier that Fend has never seen, taken as it is:

    source (see `sources`)  ->  module, and what is said of it  ->  torch.export  ->  graph

What training, audits and the service use is the graph (`fend.models.graph`): data, in the bundle.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from fend.bundles import load_bundle, read_manifest
from fend.errors import FendError
from fend.images import InputSpec
from fend.models import build
from fend.models.graph import INPUT
from fend.pipeline import frozen
from training.classifiers.graph import graph_of, without_end
from training.classifiers.said import ForeignInvalid, Said, distinct
from training.classifiers.sources import Opened, is_bundle, open_source

ARCHITECTURE = "graph"
TOLERANCE = 1e-4
"""Largest difference between logits of graph and module, as a share of the largest logit."""


@dataclass(frozen=True)
class Origin:
    """Origin of a foreign classifier."""

    source: str
    """As it was named, a file or a folder without what it lies in."""
    weights: str | None
    """Name of the file, without its folder; None where the source brought them."""
    weights_sha256: str | None
    tensors_sha256: str
    """Digest of all its tensors by name, see `digest_of`."""
    names: tuple[str, ...]
    """Its tensors; the graph may hold more, such as constants of its code."""
    notes: tuple[str, ...] = ()
    """Differences from the source, each a sentence."""

    def about(self) -> dict[str, Any]:
        """The record for a bundle's manifest."""
        return {
            "factory": self.source,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "tensors": len(self.names),
            "tensors_sha256": self.tensors_sha256,
            "notes": list(self.notes),
        }

    def check(self, module: nn.Module) -> None:
        """Raises ForeignInvalid unless `module` still holds exactly these tensors."""
        state = module.state_dict()
        if digest_of({name: state[name] for name in self.names}) != self.tensors_sha256:
            raise ForeignInvalid(f"{self.source}: its weights were changed; nothing is exported")


@dataclass(frozen=True)
class ForeignClassifier:
    """A classifier of the user's, ready to be protected."""

    architecture: str
    config: dict[str, Any]
    """As `fend.models.build` and a bundle take it."""
    module: nn.Module
    """Frozen: images (N,C,H,W) in [0, 1] as `input` says, to logits (N, classes)."""
    classes: int
    labels: tuple[str, ...] | None
    """A label a logit; None where nobody says."""
    input: InputSpec
    origin: Origin | None
    """None for the classifier of a bundle."""


def classifier_of(
    source: str,
    *,
    weights: Path | None = None,
    said: Said | None = None,
    otherwise: InputSpec | None = None,
) -> ForeignClassifier:
    """The classifier that `source` names: torchvision:NAME, timm:NAME, hf:NAME or hf:FOLDER,
    FILE.onnx, FILE.pt2, package.module:function, or the folder of a bundle.

    `weights` is a file of its tensors (safetensors, or torch.save's) where the source has none of
    its own. `said` is what the user says, which counts more than what the source says. `otherwise`
    is the input where neither says one.

    Raises:
        ForeignInvalid: what the message says.
        FendError: the bundle cannot be read.
    """
    said = said or Said()
    if is_bundle(source):
        return _of_bundle(source, weights, said)
    return taken(source, open_source(source, weights), said, otherwise)


def taken(
    source: str, opened: Opened, said: Said, otherwise: InputSpec | None = None
) -> ForeignClassifier:
    """`classifier_of` a source that is open."""
    both = said.over(opened.said)
    spec = both.input_spec(otherwise)
    if spec is None:
        raise ForeignInvalid(f"{source} does not say which size its images have: give --size")
    prepared = _Prepared(opened.module, both, spec.channels).eval()
    images = _examples(spec)
    classes = _try(source, prepared, images)
    network, config, notes = _as_graph(source, prepared, images)
    labels = both.labels
    if labels is not None and len(labels) != classes:
        if said.labels is not None:
            raise ForeignInvalid(
                f"{source} gives {classes} logits, and there are {len(labels)} labels: one a "
                "logit, in their order"
            )
        labels = None  # of other weights
    state = opened.module.state_dict()
    origin = Origin(
        source=_named(source),
        weights=None if opened.weights is None else opened.weights.name,
        weights_sha256=None if opened.weights is None else _sha256(opened.weights.read_bytes()),
        tensors_sha256=digest_of(state),
        names=tuple(state),
        notes=(*notes, *_preprocessing(both)),
    )
    origin.check(network)
    return ForeignClassifier(
        ARCHITECTURE, config, network, classes, labels and distinct(labels), spec, origin
    )


def said_by_source(source: str, weights: Path | None, said: Said) -> Said:
    """What `source` says of its classifier, under what the user says. Quick where the source is a
    file; with a hub it loads the network.

    Raises:
        ForeignInvalid, FendError: as `classifier_of`.
    """
    if not is_bundle(source):
        return said.over(open_source(source, weights).said)
    content = read_manifest(Path(source)).content
    given = content.input
    own = Said(
        given.channels, (given.height_px, given.width_px), given.resize, given.crop_from_px,
        given.interpolation, labels=tuple(content.labels),
    )  # fmt: skip
    return said.over(own)


def _named(source: str) -> str:
    """The source without the folders of this machine."""
    zoo, colon, rest = source.rpartition(":")
    return zoo + colon + (Path(rest).name if Path(rest).exists() else rest)


class _Prepared(nn.Module):
    """A network behind its normalisation: RGB, or grey, in [0, 1] to logits (N, classes)."""

    def __init__(self, network: nn.Module, said: Said, channels: int) -> None:
        super().__init__()
        self.network = network
        self.bgr = bool(said.bgr) and channels == 3
        mean, std = (said.mean or (0.0,)), (said.std or (1.0,))
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels):
                raise ForeignInvalid(
                    f"--{name} has {len(values)} numbers, and images have {channels} channels"
                )
        self.normalises = any(mean) or any(value != 1 for value in std)
        self.mean, self.std = list(mean), list(std)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to logits."""
        if self.bgr:
            images = images.flip(1)
        if self.normalises:
            images = (images - torch.tensor(self.mean).view(-1, 1, 1)) / torch.tensor(
                self.std
            ).view(-1, 1, 1)
        return _logits(self.network(images))


def _logits(answer: Any) -> Tensor:
    """The logits in what a network gives: transformers' have them by name."""
    if isinstance(answer, Mapping) and "logits" in answer:
        answer = answer["logits"]
    answer = getattr(answer, "logits", answer)
    if isinstance(answer, list | tuple) and len(answer) == 1:
        (answer,) = answer
    if not isinstance(answer, Tensor):
        raise TypeError(f"it gives {type(answer).__name__}, not a tensor of logits")
    return answer.flatten(1) if answer.dim() > 2 and answer.shape[2:].numel() == 1 else answer


def _of_bundle(source: str, weights: Path | None, said: Said) -> ForeignClassifier:
    folder = Path(source)
    content = read_manifest(folder).content
    other = said.input_spec(content.input) != content.input
    if other or weights is not None or said.mean or said.std or said.bgr is not None:
        raise ForeignInvalid(
            f"{source} is a bundle, whose classifier has its weights and its input: of the flags "
            "about a classifier only --labels goes with it"
        )
    component, labels = content.classifier, said.labels or tuple(content.labels)
    if len(labels) != len(content.labels):
        raise ForeignInvalid(
            f"{source} gives {len(content.labels)} logits, and there are {len(labels)} labels"
        )
    module = frozen(load_bundle(folder).defence.classifier)
    return ForeignClassifier(
        component.architecture, dict(component.config), module, len(labels), labels, content.input,
        None,
    )  # fmt: skip


def digest_of(state: dict[str, Tensor]) -> str:
    """SHA-256 of the tensors as one safetensors file without metadata."""
    return _sha256(save({key: tensor.cpu().contiguous().clone() for key, tensor in state.items()}))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _examples(spec: InputSpec) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(5, spec.channels, spec.height_px, spec.width_px, generator=generator)


@torch.no_grad()
def _try(source: str, module: nn.Module, images: Tensor) -> int:
    """How many logits it gives an image; raises ForeignInvalid where it does not, or where an
    answer depends on more than the image."""
    shape = "x".join(str(size) for size in images.shape[1:])
    try:
        logits = module(images)
        alone = torch.cat([module(image) for image in torch.split(images, 1)])
    except Exception as error:  # whatever the user's code raises
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ForeignInvalid(
            f"{source} does not take images of {shape} (channels, height, width): {reason[0]}; "
            "give its own size with --size"
        ) from error
    if logits.dim() != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise ForeignInvalid(
            f"{source} must give a logit a class, two or more, (5, classes) for 5 images of "
            f"{shape}, not {tuple(logits.shape)}"
        )
    if _distance(alone, logits) > TOLERANCE:
        raise ForeignInvalid(
            f"{source}: the answer to an image depends on its batch, or on chance; in eval mode "
            "it must not"
        )
    return int(logits.shape[1])


def _as_graph(
    source: str, module: nn.Module, images: Tensor
) -> tuple[nn.Module, dict[str, Any], list[str]]:
    """The graph that gives the module's logits, its configuration, and what was left out."""
    try:
        config, constants = graph_of(module, images[:2], INPUT)
        config, end = without_end(config)
        network = frozen(build(ARCHITECTURE, config))
    except FendError as error:
        raise ForeignInvalid(f"{source}: {error}") from error
    state = {name.removeprefix("network."): what for name, what in module.state_dict().items()}
    network.load_state_dict(state | constants)
    _compare(source, module, network, images, end)
    with torch.no_grad():
        logits = network(images)
    if logits.min() >= 0 and logits.max() <= 1 and (logits.sum(1) - 1).abs().max() < 1e-3:
        raise ForeignInvalid(
            f"{source} gives probabilities, not logits, so that attacks on it would see next to no "
            "gradient; give the network without its softmax"
        )
    if end is None:
        return network, config, []
    note = f"the {end} at its end is left out: attacks and suspicion need logits"
    return network, config, [note]


def _compare(
    source: str, module: nn.Module, network: nn.Module, images: Tensor, end: str | None
) -> None:
    """Raises ForeignInvalid where the graph is not the module, in logits or in gradients."""
    answers = []
    for model in (module, network):
        leaf = images.clone().requires_grad_(True)
        logits = model(leaf)
        if model is network and end is not None:
            logits = logits.sigmoid() if end == "sigmoid" else getattr(logits, end)(1)
        if not logits.requires_grad:
            raise ForeignInvalid(f"{source} cannot be differentiated, so nothing can be learnt")
        (gradient,) = torch.autograd.grad(logits.square().sum(), leaf)
        answers.append((logits.detach(), gradient))
    (logits, gradient), (again, gradient_again) = answers
    if _distance(again, logits) > TOLERANCE or _distance(gradient_again, gradient) > TOLERANCE:
        raise ForeignInvalid(f"{source}: torch.export gives other answers than the module")


def _preprocessing(said: Said) -> list[str]:
    """What happens to pixels inside the network, in words."""
    notes = []
    if said.bgr:
        notes.append("it takes blue first, so the channels are turned round inside")
    if said.mean or said.std:
        mean, std = (
            ", ".join(f"{value:.6g}" for value in values or (default,))
            for values, default in ((said.mean, 0.0), (said.std, 1.0))
        )
        notes.append(f"pixels in [0, 1] are normalised inside: mean {mean}, deviation {std}")
    return notes


def _distance(some: Tensor, others: Tensor) -> float:
    scale = float(others.abs().max())
    distance = float((some - others).abs().max())
    return distance / max(scale, 1e-12) if math.isfinite(distance) else math.inf


__all__ = ["ForeignClassifier", "ForeignInvalid", "Opened", "Origin", "classifier_of", "digest_of"]
