"""What was audited, with what, where: the part of a report that no row holds."""

import torch
from pydantic import BaseModel, ConfigDict

import fend
from fend.audit.opened import OpenAudit


class Source(BaseModel):
    """The identity of the models, the images and the software."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    model_version: str
    surrogate: str | None = None
    """The attacker's own model, where a level of the audit needed one."""
    surrogate_version: str | None = None
    dataset: str
    dataset_digest: str
    label_names: tuple[str, ...]
    fend_version: str
    torch_version: str
    device: str
    randomised: bool = False
    """The pipeline answers at random; its answers are the majority of `answers.DRAWS` passes."""


def source_of(opened: OpenAudit) -> Source:
    """The source of an audit that runs in this process."""
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
