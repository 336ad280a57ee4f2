"""The models and the images of an audit, loaded and found to fit each other."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

import fend
from fend.attacks import needs_classes
from fend.audit.plan import Plan
from fend.audit.presets import DLR_FROM
from fend.audit.rows import Source
from fend.audit.spec import AuditSpec, check_distances, spec_invalid
from fend.audit.work.attacked import REPEAT_TOLERANCE, variation
from fend.audit.work.judge import seeded
from fend.audit.work.surrogates import obtain_surrogate
from fend.bundles import Bundle, Manifest, load_bundle, read_manifest
from fend.datasets import ImageSet, InvalidDatasetError, load
from fend.datasets.base import some
from fend.datasets.pictures import Tell, quiet
from fend.images import InputSpec
from fend.models.memory import images_at_once

REPEATED_IMAGES = 8
"""Images on which a pipeline is tried for answers at random."""


@dataclass(frozen=True)
class OpenAudit:
    """What every shard of an audit works with."""

    spec: AuditSpec
    bundle: Bundle
    image_set: ImageSet
    surrogate: Bundle | None = None
    """The attacker's own model; there where a level of the spec needs one."""

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return next(self.bundle.defence.parameters()).device

    @cached_property
    def randomised(self) -> bool:
        """Whether the pipeline answers at random: five passes of a few images differ.

        That is all that a steady pipeline pays for the rule in `judge`.
        """
        few = self.image_set.sample(self.spec.samples, self.spec.seed)[:REPEATED_IMAGES]
        images = self.image_set.pixels(few).to(self.device)
        with seeded(self.spec.seed, "randomised", self.device):
            return bool((variation(self.bundle.defence, images) > REPEAT_TOLERANCE).any())

    @cached_property
    def images_at_once(self) -> int:
        """How many images an attack may take, by the memory of a pass and its gradient."""
        shape = tuple(self.image_set.images.shape[1:])
        return images_at_once(self.bundle.defence, shape, self.spec.shard_size)

    @cached_property
    def plan(self) -> Plan:
        """The lines to attack."""
        return Plan.of(self.spec, self.randomised)


def open_audit(
    spec: AuditSpec,
    bundle_dir: Path,
    data_dir: Path | None,
    device: torch.device | str = "cpu",
    *,
    models_dir: Path | None = None,
    surrogates_dir: Path | None = None,
    on_making: Callable[[Path], None] = lambda _: None,
    images: Callable[[InputSpec], ImageSet] | None = None,
) -> OpenAudit:
    """The models and the images of an audit.

    `images` reads them where `spec.dataset` does not say all, for the input of a bundle.
    `spec.surrogate` is looked up in `models_dir` (None: beside the bundle). Where the spec names
    none but needs one, it is made once and kept in `surrogates_dir`, which takes minutes;
    `on_making` is called before that.

    Raises:
        Unavailable, Invalid: one of them cannot be read.
        Invalid (`audit_spec_invalid`): they do not fit each other.
        Invalid (`surrogate_missing`): there is no surrogate, and none can be made.
    """
    manifest = read_manifest(bundle_dir)
    takes = manifest.content.input
    read = load(spec.dataset, data_dir, takes) if images is None else images(takes)
    image_set = check_fit(spec, manifest, read)
    folder = obtain_surrogate(
        spec,
        bundle_dir,
        manifest,
        models_dir=models_dir or bundle_dir.parent,
        surrogates_dir=surrogates_dir,
        data_dir=data_dir,
        on_making=on_making,
    )
    surrogate = None if folder is None else load_bundle(folder, device)
    return OpenAudit(spec, load_bundle(bundle_dir, device), image_set, surrogate)


@dataclass(frozen=True)
class AuditJob:
    """An audit, and where its models and images are: what a process needs to open it for itself.

    Nothing large is sent to another process.
    """

    spec: AuditSpec
    bundle_dir: Path
    data_dir: Path | None = None
    device: str = "cpu"
    models_dir: Path | None = None
    surrogates_dir: Path | None = None
    skip_bad: bool = False
    """Whether to pass over files that are no pictures."""

    def open(
        self, on_making: Callable[[Path], None] = lambda _: None, tell: Tell = quiet
    ) -> OpenAudit:
        """See `open_audit`; `tell` is told of the images, see `fend.datasets.load`."""
        return open_audit(
            self.spec,
            self.bundle_dir,
            self.data_dir,
            self.device,
            models_dir=self.models_dir,
            surrogates_dir=self.surrogates_dir,
            on_making=on_making,
            images=lambda takes: self.images(takes, tell),
        )

    def images(self, takes: InputSpec, tell: Tell) -> ImageSet:
        """The images, pictures as the input of the bundle takes them."""
        return load(self.spec.dataset, self.data_dir, takes, skip_bad=self.skip_bad, tell=tell)


def check_fit(spec: AuditSpec, manifest: Manifest, image_set: ImageSet) -> ImageSet:
    """The images with their labels numbered as the model numbers its own.

    Raises Invalid (`audit_spec_invalid`) when the model does not take these images, does not know
    their classes or has too few for an attack, or a distance is larger than its images allow."""
    content = manifest.content
    takes = (content.input.channels, content.input.height_px, content.input.width_px)
    has = tuple(image_set.images.shape[1:])
    if has != takes:
        raise spec_invalid(
            f"dataset: {image_set.name} has images of {has} (channels, height, width), "
            f"but the model {manifest.name} takes {takes}"
        )
    names = image_set.label_names
    if list(names) != content.labels[: len(names)]:
        try:
            image_set = image_set.relabelled(tuple(content.labels))
        except InvalidDatasetError as error:
            raise spec_invalid(
                f"dataset: the classes of {image_set.name} are {some(names)}, "
                f"but those of the model {manifest.name} are {some(content.labels)}"
            ) from error
    check_distances(spec, math.prod(takes))
    classes = len(content.labels)
    if classes < 2:
        raise spec_invalid(f"model: {manifest.name} has one class, so that no answer can be wrong")
    for number, attacker in enumerate(spec.attacks):
        needed = needs_classes(attacker)
        if classes < needed:
            many = f"targets up to {classes - 1}" if needed > DLR_FROM else "loss margin"
            raise spec_invalid(
                f"attacks.{number}: {attacker.name} as asked for needs a model of {needed} "
                f"classes or more, and {manifest.name} has {classes}; ask for {many}, or leave "
                "attacks out: those of a preset fit themselves to the model"
            )
    return image_set


def source_of(opened: OpenAudit) -> Source:
    """What an audit in this process works with."""
    manifest, image_set, device = opened.bundle.manifest, opened.image_set, opened.device
    surrogate = None if opened.surrogate is None else opened.surrogate.manifest
    return Source(
        model=manifest.name,
        model_version=manifest.version,
        surrogate=None if surrogate is None else surrogate.name,
        surrogate_version=None if surrogate is None else surrogate.version,
        dataset=image_set.name,
        dataset_digest=image_set.digest,
        label_names=image_set.label_names,
        fend_version=fend.__version__,
        torch_version=torch.__version__,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        randomised=opened.randomised,
    )
