"""What every peer does with an image: our decoder, our bundle, and the content of our answer.

A plain dictionary, so that no peer pays for our response classes. One torch thread a process,
which is best on two cores.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fend.bundles import load_bundle
from fend.images import DEFAULT_LIMITS, decode
from fend.pipeline import suspicion

MODEL = Path(os.environ.get("BENCH_MODEL", "models/mnist"))
TOP_K = 5


class Pipeline:
    """The bundle, ready to answer."""

    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ.get("BENCH_TORCH_THREADS", "1")))
        self._bundle = load_bundle(MODEL)
        self._manifest = self._bundle.manifest
        spec = self._manifest.content.input
        image = torch.rand(spec.channels, spec.height_px, spec.width_px)
        for size in (1, 8, 64) if image.numel() < 10_000 else (1, 2):
            self.infer([image] * size)

    def decode(self, data: bytes) -> Tensor:
        """An image file to (C,H,W) in [0, 1], under the service's own limits."""
        return decode(data, self._manifest.content.input, DEFAULT_LIMITS).pixels

    @torch.inference_mode()
    def infer(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """One answer for each image."""
        answers = self._bundle.defence.answer(torch.stack(list(images)))
        rows = zip(
            answers.logits.softmax(1).tolist(),
            answers.undefended_logits.softmax(1).tolist(),
            suspicion(answers.logits, answers.undefended_logits).tolist(),
            strict=True,
        )
        return [self._answer(*row) for row in rows]

    def _answer(self, probabilities: list[float], plain: list[float], score: float) -> Any:
        labels = self._manifest.content.labels
        threshold = self._manifest.content.suspicion.threshold
        ranked = sorted(range(len(labels)), key=lambda index: -probabilities[index])
        undefended = max(range(len(labels)), key=plain.__getitem__)
        return {
            "model": {"name": self._manifest.name, "version": self._manifest.version},
            "label": labels[ranked[0]],
            "index": ranked[0],
            "confidence": probabilities[ranked[0]],
            "top_k": [
                {"label": labels[index], "index": index, "probability": probabilities[index]}
                for index in ranked[:TOP_K]
            ],
            "undefended": {
                "label": labels[undefended],
                "index": undefended,
                "confidence": plain[undefended],
            },
            "suspicion": {"score": score, "threshold": threshold, "flagged": score > threshold},
        }
