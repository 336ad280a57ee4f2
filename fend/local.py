"""Answers without a service: the same decoder, the same pipeline, the same answer."""

from pathlib import Path

import torch

from fend.answers import DEFAULT_TOP_K, Classification, InputReport, classification
from fend.bundles import load_bundle
from fend.errors import Invalid
from fend.guarantees.smoothing import certify_image, new_seed, sigma_of
from fend.images import decode
from fend.pipeline import suspicion


class LocalModel:
    """A bundle in this process."""

    def __init__(self, folder: Path) -> None:
        """Raises Unavailable where the bundle cannot be used; see `load_bundle`."""
        self._bundle = load_bundle(folder)

    @torch.inference_mode()
    def classify(
        self, data: bytes, top_k: int | None = None, *, certify: bool = False
    ) -> Classification:
        """The answer to the picture in `data`, a whole PNG, JPEG, WebP or BMP file.

        With `certify` also its certificate, for noise from a new seed.

        Raises:
            Invalid, TooLarge, Unsupported: `decode`'s, `top_k_invalid` or `not_certifiable`.
        """
        manifest = self._bundle.manifest
        classes = len(manifest.content.labels)
        if top_k is not None and not 1 <= top_k <= classes:
            raise Invalid(
                f"top_k is {top_k}, and the model has {classes} labels", code="top_k_invalid"
            )
        if certify:
            sigma_of(manifest)
        image = decode(data, manifest.content.input)
        answers = self._bundle.defence.answer(image.pixels.unsqueeze(0))
        return classification(
            manifest,
            answers.logits.softmax(1)[0].tolist(),
            answers.undefended_logits.softmax(1)[0].tolist(),
            float(suspicion(answers.logits, answers.undefended_logits)[0]),
            InputReport(
                format=image.source_format,
                size_px=image.source_size_px,
                resized=image.resized,
                inverted=image.inverted,
            ),
            top_k or min(DEFAULT_TOP_K, classes),
            certified=certify_image(self._bundle, image.pixels, new_seed()) if certify else None,
        )
