"""A model on disk: `manifest.json`, weights as safetensors, and `README.md`, its card.

    models/mnist/
      manifest.json            content (what decides answers, hashed), about (provenance)
      denoiser.safetensors
      classifier.safetensors
      README.md                the model card

The version of a bundle is the digest of the manifest's `content`, which holds the digest of each
weights file: two bundles with the same version answer alike. Pickle is never loaded.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from fend.datasets.base import check_label_names
from fend.errors import Invalid, Unavailable
from fend.files import replace_atomically
from fend.images import InputSpec
from fend.models import build, parameter_count
from fend.models.cost import check_cost, is_cheap
from fend.pipeline import Defence, frozen

MANIFEST = "manifest.json"
CARD = "README.md"
MAX_MANIFEST_BYTES = 2**25
_MAX_HEADER_BYTES = 2**24
VERSIONS = "versions"
"""Folder of further versions of the model, inside that of the first; see fend.bundles.versions."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Component(_Part):
    """One network of the bundle."""

    architecture: str
    config: dict[str, Any] = {}
    file: str = Field(pattern=r"^[a-z0-9_-]+\.safetensors$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class SuspicionRule(_Part):
    """When the answers with and without the denoiser differ too much to be chance."""

    threshold: float = Field(ge=0, le=1)
    false_positive_rate: float = Field(ge=0, le=1)
    """Share of clean validation images above the threshold."""


class Smoothing(_Part):
    """The noise that the networks were trained for, and so can be certified with."""

    sigma: float = Field(gt=0, le=10)
    """Its standard deviation on the pixel scale."""


class Content(_Part):
    """Everything that decides an answer."""

    input: InputSpec
    labels: Annotated[list[str], AfterValidator(check_label_names)] = Field(min_length=2)
    denoiser: Component
    classifier: Component
    suspicion: SuspicionRule
    # Left out where there is none, so that such a bundle has the version that it always had.
    smoothing: Smoothing | None = Field(default=None, exclude_if=lambda rule: rule is None)


class Manifest(_Part):
    """`manifest.json`, checked."""

    format: Literal["fend-bundle/1"] = "fend-bundle/1"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    version: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    content: Content
    about: dict[str, Any] = {}
    """Provenance and measurements: recipe, loss network, data digests, results. Not hashed."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory, ready to answer (eval mode, no parameter gradients)."""

    manifest: Manifest
    defence: Defence

    @property
    def labels(self) -> list[str]:
        """Class names, by index."""
        return self.manifest.content.labels


def content_version(content: Content) -> str:
    """The version of a bundle with this content."""
    canonical = json.dumps(content.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def save_bundle(
    folder: Path,
    *,
    name: str,
    input_spec: InputSpec,
    labels: list[str],
    denoiser: tuple[str, dict[str, Any], nn.Module],
    classifier: tuple[str, dict[str, Any], nn.Module],
    suspicion: SuspicionRule,
    about: Mapping[str, Any],
    card: str,
    smoothing: Smoothing | None = None,
) -> Manifest:
    """Write a bundle to `folder`, which appears whole or not at all and replaces an older one;
    further versions of the model, below it, stay.

    `denoiser` and `classifier` are (architecture, configuration, trained module).
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        content = Content(
            input=input_spec,
            labels=labels,
            denoiser=_write_component(staging, "denoiser", *denoiser),
            classifier=_write_component(staging, "classifier", *classifier),
            suspicion=suspicion,
            smoothing=smoothing,
        )
        manifest = Manifest(
            name=name, version=content_version(content), content=content, about=dict(about)
        )
        (staging / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        (staging / CARD).write_text(card)
        staging.chmod(0o755)
        if (folder / VERSIONS).is_dir():
            os.replace(folder / VERSIONS, staging / VERSIONS)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def annotate(folder: Path, about: Mapping[str, Any], card: str) -> Manifest:
    """Replace what is said *about* a bundle (measurements, card); its version stays."""
    manifest = read_manifest(folder).model_copy(update={"about": dict(about)})
    replace_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    replace_atomically(folder / CARD, card)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone, its version checked against its content; no weights are read.

    Raises:
        Unavailable: `bundle_missing` or `bundle_corrupt`.
    """
    path = own_file(folder, MANIFEST)
    if not path.is_file():
        raise Unavailable(f"no bundle at {folder}: there is no {MANIFEST}", code="bundle_missing")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise Unavailable(f"{path} has more than {MAX_MANIFEST_BYTES} bytes", code="bundle_corrupt")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise Unavailable(f"{path}: {key}: {first['msg']}", code="bundle_corrupt") from error
    if content_version(manifest.content) != manifest.version:
        raise Unavailable(
            f"{path}: the content does not match the version; it was edited after it was saved",
            code="bundle_corrupt",
        )
    return manifest


def own_file(folder: Path, name: str) -> Path:
    """The path of one of a bundle's files, which need not be there.

    Raises:
        Unavailable (`bundle_corrupt`): it is a symbolic link out of the folder.
    """
    path = folder / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise Unavailable(
            f"{path} is a symbolic link out of the bundle; put a copy in its place",
            code="bundle_corrupt",
        )
    return path


def load_bundle(folder: Path, device: torch.device | str = "cpu") -> Bundle:
    """Verify and load a bundle, which may come from a stranger: what it would take is known before
    anything of it is built.

    Raises:
        Unavailable: `bundle_missing` where the manifest or a weights file is not there;
            `bundle_corrupt` where a digest does not match or a file cannot be read;
            `bundle_incompatible` where the architecture is unknown, the tensors do not fit it, or
            one picture would take too much, see `fend.models.cost`.
    """
    manifest = read_manifest(folder)
    parts = (manifest.content.denoiser, manifest.content.classifier)
    states = [_read_weights(folder, part) for part in parts]
    with torch.device("meta"):  # shapes without memory
        shapes = [{key: tensor.to("meta") for key, tensor in state.items()} for state in states]
        outline = _defence(folder, parts, shapes)
    spec = manifest.content.input
    image_shape = (spec.channels, spec.height_px, spec.width_px)
    try:
        if not is_cheap(outline, image_shape):
            check_cost(outline, image_shape)
    except RuntimeError as error:
        raise Unavailable(
            f"{folder} cannot classify a picture of {spec.height_px}x{spec.width_px} pixels: "
            f"{error}",
            code="bundle_incompatible",
        ) from error
    return Bundle(manifest, _defence(folder, parts, states).to(device))


def card_of(folder: Path) -> str:
    """The model card, or an empty string where there is none."""
    path = own_file(folder, CARD)
    return path.read_text() if path.is_file() else ""


def summary_of(manifest: Manifest) -> dict[str, Any]:
    """What a listing shows of a bundle."""
    content = manifest.content
    return {
        "name": manifest.name,
        "version": manifest.version,
        "labels": content.labels,
        "input": content.input.model_dump(mode="json"),
        "denoiser": content.denoiser.architecture,
        "classifier": content.classifier.architecture,
        "sigma": None if content.smoothing is None else content.smoothing.sigma,
    }


def _write_component(
    folder: Path, role: str, architecture: str, config: dict[str, Any], module: nn.Module
) -> Component:
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    data = save(state)
    file = f"{role}.safetensors"
    (folder / file).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return Component(architecture=architecture, config=config, file=file, sha256=digest)


def _read_weights(folder: Path, component: Component) -> dict[str, Tensor]:
    path = own_file(folder, component.file)
    if not path.is_file():
        raise Unavailable(f"{path} is missing; copy the whole bundle again", code="bundle_missing")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != component.sha256:
        raise Unavailable(
            f"{path} does not have the digest in the manifest; copy it again", code="bundle_corrupt"
        )
    try:
        if int.from_bytes(data[:8], "little") > _MAX_HEADER_BYTES:
            raise SafetensorError(f"its header has more than {_MAX_HEADER_BYTES} bytes")
        state = load(data)
        finite = all(torch.isfinite(tensor).all() for tensor in state.values())
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise Unavailable(
            f"{path} is not a safetensors file that can be read: {error}", code="bundle_corrupt"
        ) from error
    if not finite:
        raise Unavailable(f"{path} holds NaN or infinite weights", code="bundle_corrupt")
    return state


def _defence(
    folder: Path, parts: Iterable[Component], states: Iterable[Mapping[str, Tensor]]
) -> Defence:
    """The two networks with these tensors, on the device that torch is set to."""
    networks = []
    for component, state in zip(parts, states, strict=True):
        try:
            network = build(component.architecture, component.config)
            network.load_state_dict(state)
        except (Invalid, RuntimeError) as error:
            raise Unavailable(
                f"{folder / component.file}: {error}", code="bundle_incompatible"
            ) from error
        networks.append(network)
    defence = Defence(*networks)
    frozen(defence)
    return defence


def describe(manifest: Manifest, defence: Defence) -> dict[str, Any]:
    """`summary_of` with the sizes of the networks."""
    return summary_of(manifest) | {
        "denoiser_parameters": parameter_count(defence.denoiser),
        "classifier_parameters": parameter_count(defence.classifier),
    }
