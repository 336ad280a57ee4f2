"""How an attack's gradient is taken: exactly, past the denoiser (BPDA), averaged (EOT).

These wrap the attacked pipeline; they are no attacks (Athalye et al. 2018).
"""

from typing import Literal

from pydantic import BaseModel, Field


class Gradient(BaseModel, frozen=True, extra="forbid"):
    """Options that every attack with a gradient takes, beside its objective."""

    denoiser: Literal["exact", "identity"] = "exact"
    """`identity`: the denoiser runs forward as it is, and backward as if it were not there (BPDA).
    For denoisers without a useful gradient; on a differentiable one it is the weaker attack."""
    samples: int = Field(default=1, ge=1, le=1_000)
    """Gradients averaged at each step (EOT): more than 1 for pipelines that answer at random."""
