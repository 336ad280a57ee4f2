"""A known image that every bundle must be able to answer before it is used."""

import torch
from torch import Tensor

from fend.bundles.bundle import Bundle
from fend.errors import Unavailable
from fend.images import InputSpec


def canary(spec: InputSpec) -> Tensor:
    """A grey ramp as the model takes it, float32 (C,H,W) in [0, 1]."""
    pixels = spec.channels * spec.height_px * spec.width_px
    ramp = torch.linspace(0.0, 1.0, pixels)
    return ramp.view(spec.channels, spec.height_px, spec.width_px)


@torch.inference_mode()
def check_canary(bundle: Bundle) -> None:
    """Let a bundle on the CPU answer the canary.

    Raises:
        Unavailable (`bundle_incompatible`): its networks fit neither each other nor its labels, or
            the answer is NaN or infinite.
    """
    image = canary(bundle.manifest.content.input)
    try:
        answers = bundle.defence.answer(image[None])
    except RuntimeError as error:
        raise Unavailable(
            f"the networks do not fit together: {error}", code="bundle_incompatible"
        ) from error
    check_classes(answers.logits.shape[1], bundle.labels)
    if not all(
        part.isfinite().all()
        for part in (answers.denoised, answers.logits, answers.undefended_logits)
    ):
        raise Unavailable(
            "the model has no finite answer to a known image", code="bundle_incompatible"
        )


def check_classes(classes: int, labels: list[str]) -> None:
    """Raises Unavailable where a classifier and the manifest differ in the number of classes."""
    if classes != len(labels):
        raise Unavailable(
            f"the classifier has {classes} classes, the manifest names {len(labels)}",
            code="bundle_incompatible",
        )
