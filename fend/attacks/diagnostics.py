"""What an attack went through on each image, by which a failed attack is told from a defence.

The ideas are those of Pintor et al. 2021 ("Indicators of Attack Failure").
"""

import math
from dataclasses import dataclass

from fend.attacks.lazy import Tensor, torch
from fend.threat import MEASURE_TOLERANCE, ThreatModel

SHORTEST_RUN = 10
"""Steps that a run needs for its last tenth to be a step."""


@dataclass
class Diagnostics:
    """One entry for each image of the batch (N,); `rows` say which ones a call is about."""

    images: Tensor
    """The clean ones."""
    true_labels: Tensor
    threat: ThreatModel
    seen_fooled: Tensor
    broken_gradient: Tensor
    gradient_taken: Tensor
    gradient_nonzero: Tensor
    top_values: Tensor
    """The highest value of the objective in this run."""
    first_values: Tensor
    early_values: Tensor
    """`top_values` when the last tenth of the run began."""
    rise: Tensor
    """Over all runs that came to their end."""
    late_rise: Tensor
    run_ended: Tensor

    @classmethod
    def start(cls, images: Tensor, true_labels: Tensor, threat: ThreatModel) -> "Diagnostics":
        """Before the first question."""
        numbers = images.new_zeros(6, len(images))
        flags = torch.zeros(5, len(images), dtype=torch.bool, device=images.device)
        top, first, early, rise, late = numbers[:5].unbind()
        seen, broken, taken, nonzero, ended = flags.unbind()
        return cls(
            images=images,
            true_labels=true_labels,
            threat=threat,
            seen_fooled=seen,
            broken_gradient=broken,
            gradient_taken=taken,
            gradient_nonzero=nonzero,
            top_values=top,
            first_values=first,
            early_values=early,
            rise=rise,
            late_rise=late,
            run_ended=ended,
        )

    def see_answers(self, images: Tensor, logits: Tensor, rows: Tensor) -> None:
        """Take in the answers on images that the attack asked about."""
        fooled = fools(logits, self.true_labels[rows]) & ~self.seen_fooled[rows]
        if not bool(fooled.any()):  # so that only what is new is measured
            return
        asked, new = images[fooled], rows[fooled]
        distance = self.threat.measure(self.images[new], asked)
        pixels = asked.flatten(1)
        inside = (
            (distance <= self.threat.epsilon + MEASURE_TOLERANCE)
            & (pixels.amin(1) >= -MEASURE_TOLERANCE)
            & (pixels.amax(1) <= 1 + MEASURE_TOLERANCE)
        )
        self.seen_fooled[new[inside]] = True

    def sanitize(self, gradient: Tensor, rows: Tensor, telling: Tensor | None = None) -> Tensor:
        """Take in a gradient; zero instead of NaN and infinity, where there are any.

        `telling`: bool (n,), where a zero would be news; None is everywhere.
        """
        if not bool(self.gradient_nonzero[rows].all()):
            self.gradient_taken[rows] |= True if telling is None else telling
            self.gradient_nonzero[rows] |= (gradient != 0).flatten(1).any(1)
        # One sum tells that all is finite; where it overflows, or is not, look at each image.
        if math.isfinite(float(gradient.sum())):
            return gradient
        finite = torch.isfinite(gradient)
        self.broken_gradient[rows] |= ~finite.flatten(1).all(1)
        return torch.where(finite, gradient, 0.0)

    def see_values(self, values: Tensor, rows: Tensor, step: int, steps: int) -> None:
        """Take in the objective at `step` 0 ... `steps` of a run, the last one being its end."""
        if steps < SHORTEST_RUN:
            return
        if step == 0:
            self.first_values[rows] = self.top_values[rows] = values
            return
        top = torch.fmax(self.top_values[rows], values)
        self.top_values[rows] = top
        if step == steps - steps // 10:
            self.early_values[rows] = top
        elif step == steps:
            self.rise[rows] += top - self.first_values[rows]
            self.late_rise[rows] += top - self.early_values[rows]
            self.run_ended[rows] = True

    @property
    def zero_gradient(self) -> Tensor:
        """bool (N,): gradients were taken, and every one was exactly zero."""
        return self.gradient_taken & ~self.gradient_nonzero

    @property
    def late_gain(self) -> Tensor:
        """(N,): the share, 0..1, of the rise that came late; NaN where no run came to its end, or
        where the values were not finite."""
        share = torch.where(self.rise == 0, 0.0, self.late_rise / self.rise)
        return torch.where(self.run_ended, share, torch.nan)


def fools(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each answer (N,) is not `labels`; NaN and infinity are no right answer."""
    # The argmax of a row with NaN would be arbitrary.
    return (logits.argmax(1) != labels) | ~torch.isfinite(logits).all(1)
