"""Known-bad controls: models that look robust and are not, for trying the auditor on.

Never serve them as defences. Each is a wrapper around an ordinary network, or a stand-in for a
denoiser. The fifth control, a 1-bit quantiser, is the ordinary `bit-depth` denoiser.
"""

from fend.models.architectures.controls.gradient_killer import GradientKiller
from fend.models.architectures.controls.nan_gradient import NanGradient
from fend.models.architectures.controls.random_resize import RandomResize
from fend.models.architectures.controls.scaled_logits import ScaledLogits

__all__ = ["GradientKiller", "NanGradient", "RandomResize", "ScaledLogits"]
