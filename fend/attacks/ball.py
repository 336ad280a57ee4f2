"""The allowed images around some clean ones, worked out once for a whole run."""

from dataclasses import dataclass

from fend.attacks.lazy import Tensor
from fend.threat import ThreatModel


@dataclass(frozen=True)
class Ball:
    """`ThreatModel.project` around fixed images, at a fraction of its cost for L-inf."""

    threat: ThreatModel
    images: Tensor
    """(n,C,H,W), the centres."""
    bounds: tuple[Tensor, Tensor] | None
    """Lowest and highest allowed pixels, for L-inf: (n,C,H,W) each."""

    @classmethod
    def around(cls, images: Tensor, threat: ThreatModel) -> "Ball":
        """The ball, in the box, around each of `images` (n,C,H,W)."""
        if threat.norm != "linf":
            return cls(threat, images, None)
        bounds = tuple(threat.project(images, images + way * threat.epsilon) for way in (-1, 1))
        return cls(threat, images, (bounds[0], bounds[1]))

    def project(self, perturbed: Tensor) -> Tensor:
        """The allowed image next to each of `perturbed` (n,C,H,W)."""
        if self.bounds is None:
            return self.threat.project(self.images, perturbed)
        return perturbed.clamp(*self.bounds)

    def only(self, rows: Tensor) -> "Ball":
        """Around the images that go on; `rows` are places or a mask."""
        bounds = None if self.bounds is None else (self.bounds[0][rows], self.bounds[1][rows])
        return Ball(self.threat, self.images[rows], bounds)
