"""The exponential moving average of a module's weights: a flatter, more robust place than the last
step's (Izmailov et al. 2018; for adversarial training: Gowal et al. 2020).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Follows a module; `decay` is how much of the old average a step keeps."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self.weights = {key: value.detach().clone() for key, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """After a step of the optimiser. The first steps are forgotten sooner: they are far off."""
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + 10))
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                self.weights[key].lerp_(value, 1 - decay)
            else:  # counts
                self.weights[key].copy_(value)

    @contextmanager
    def worn_by(self, module: nn.Module) -> Iterator[None]:
        """`module` has the averaged weights inside, and its own again after."""
        own = {key: value.detach().clone() for key, value in module.state_dict().items()}
        module.load_state_dict(self.weights)
        try:
            yield
        finally:
            module.load_state_dict(own)

    def state(self) -> dict[str, int | dict[str, Tensor]]:
        """For a checkpoint."""
        return {"steps": self._steps, "weights": self.weights}

    def restore(self, steps: int, weights: dict[str, Tensor]) -> None:
        """As `state` had it."""
        self._steps = steps
        for key, value in weights.items():
            self.weights[key].copy_(value)
