"""Answers without a service: the same decoder, the same pipeline, the same answer."""

from pathlib import Path

from fend.client.answers import DEFAULT_TOP_K, Classification, InputReport, classification
from fend.client.image import Image, image_bytes
from fend.errors import Invalid


class LocalModel:
    """A bundle in this process."""

    def __init__(self, folder: Path) -> None:
        """Raises Unavailable, Invalid: as `load_bundle`."""
        from fend.bundles import load_bundle  # imports torch, as all that only this class needs

        self._bundle = load_bundle(folder)

    def classify(
        self, image: Image, *, top_k: int | None = None, certify: bool = False
    ) -> Classification:
        """The answer to one image; with `certify` also its certificate, for noise from a new seed.

        Raises:
            Invalid, TooLarge, Unsupported: the image cannot be decoded.
            Invalid: `image_unreadable`, `top_k_invalid`, `not_certifiable`.
        """
        import torch

        from fend.guarantees.smoothing import certify_image, new_seed, sigma_of
        from fend.images import decode
        from fend.pipeline import suspicion

        manifest = self._bundle.manifest
        classes = len(manifest.content.labels)
        if top_k is not None and not 1 <= top_k <= classes:
            raise Invalid(
                f"top_k is {top_k}, and the model has {classes} labels", code="top_k_invalid"
            )
        if certify:
            sigma_of(manifest)
        decoded = decode(image_bytes(image), manifest.content.input)
        with torch.inference_mode():
            answers = self._bundle.defence.answer(decoded.pixels.unsqueeze(0))
            certified = certify_image(self._bundle, decoded.pixels, new_seed()) if certify else None
        return classification(
            manifest,
            answers.logits.softmax(1)[0].tolist(),
            answers.undefended_logits.softmax(1)[0].tolist(),
            float(suspicion(answers.logits, answers.undefended_logits)[0]),
            InputReport(
                format=decoded.source_format,
                size_px=decoded.source_size_px,
                resized=decoded.resized,
                inverted=decoded.inverted,
            ),
            top_k or min(DEFAULT_TOP_K, classes),
            certified=certified,
        )
