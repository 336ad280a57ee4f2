"""Images to look at: before, after, and as the denoiser sees them."""

import base64
from collections.abc import Collection

import torch
from torch import Tensor

from fend.audit.batch import Batch
from fend.audit.rows import ExampleRow, Row
from fend.images import encode_png
from fend.pipeline import Defence
from fend.threat import Knowledge


def example_rows(
    defence: Defence,
    batch: Batch,
    adversarial: Tensor,
    shown: Collection[int],
    knowledge: Knowledge,
    number: int,
) -> list[Row]:
    """Those images of a line that are in `shown`."""
    places = [place for place, index in enumerate(batch.indices) if index in shown]
    if not places:
        return []
    clean, attacked = batch.images[places], adversarial[places]
    with torch.no_grad():
        denoised = torch.nan_to_num(defence.denoiser(attacked)).clamp(0.0, 1.0)
    return [
        ExampleRow(
            index=batch.indices[place],
            knowledge=knowledge,
            attack=number,
            clean_png=_png(clean[row]),
            adversarial_png=_png(attacked[row]),
            denoised_png=_png(denoised[row]),
        )
        for row, place in enumerate(places)
    ]


def _png(pixels: Tensor) -> str:
    return base64.b64encode(encode_png(pixels)).decode()
