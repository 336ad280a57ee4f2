"""What was audited, with what, where: the part of a report that no row holds."""

import torch
from pydantic import BaseModel, ConfigDict

import fend
from fend.bundle import Bundle
from fend.datasets import ImageSet


class Source(BaseModel):
    """The identity of a model, its images and the software."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    model_version: str
    dataset: str
    dataset_digest: str
    label_names: tuple[str, ...]
    fend_version: str
    torch_version: str
    device: str


def source_of(bundle: Bundle, image_set: ImageSet) -> Source:
    """The source of an audit of `bundle` on `image_set`, run in this process."""
    device = next(bundle.defence.parameters()).device
    return Source(
        model=bundle.manifest.name,
        model_version=bundle.manifest.version,
        dataset=image_set.name,
        dataset_digest=image_set.digest,
        label_names=image_set.label_names,
        fend_version=fend.__version__,
        torch_version=torch.__version__,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )
