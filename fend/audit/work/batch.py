"""Images on their way through an audit."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fend.audit.work.judge import Judged
from fend.audit.work.opened import OpenAudit


@dataclass(frozen=True)
class Batch:
    """Some images with their labels; all fields are in the same order."""

    indices: tuple[int, ...]
    """Places in the data set."""
    images: Tensor
    """float32 (N,C,H,W) in [0, 1], on the model's device."""
    labels: Tensor
    """int64 (N,)."""

    @classmethod
    def of(cls, opened: OpenAudit, indices: tuple[int, ...]) -> "Batch":
        """The images at `indices`."""
        chosen = torch.tensor(indices, dtype=torch.int64)
        return cls(
            indices,
            opened.image_set.pixels(chosen).to(opened.device),
            opened.image_set.labels[chosen].to(opened.device),
        )

    def only(self, wanted: Collection[int]) -> "Batch":
        """Those whose place is in `wanted`, in the same order."""
        places = [place for place, index in enumerate(self.indices) if index in wanted]
        if len(places) == len(self.indices):
            return self
        return Batch(
            tuple(self.indices[place] for place in places), self.images[places], self.labels[places]
        )

    def right(self, answers: Sequence[Judged]) -> set[int]:
        """The places of the images on which the pipeline's answer is the label."""
        return {
            index
            for index, label, answer in zip(
                self.indices, self.labels.tolist(), answers, strict=True
            )
            if answer.defended == label
        }
