"""A cache of the clean images' feature maps, which never change while a denoiser learns."""

from collections.abc import Callable

import torch
from torch import Tensor


class FeatureCache:
    """Feature maps in half precision, on the device that computes them, filled on first use.

    A cache that would be larger than `limit_bytes` is disabled: maps are then computed each time.
    """

    def __init__(
        self, compute: Callable[[Tensor], dict[str, Tensor]], images: int, limit_bytes: int
    ) -> None:
        self._compute = compute
        self._images = images
        self._limit_bytes = limit_bytes
        self._maps: dict[str, Tensor] | None = None
        self._known = torch.zeros(images, dtype=torch.bool)
        self.enabled = limit_bytes > 0

    def get(self, indices: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """The maps of `clean` (N,C,H,W), the images with the numbers `indices` (N,)."""
        if not self.enabled:
            return self._compute(clean)
        missing = ~self._known[indices]
        if bool(missing.any()):
            self._fill(indices[missing], clean[missing])
        if self._maps is None:
            return self._compute(clean)
        rows = indices.to(clean.device)
        return {
            name: maps.index_select(0, rows).float().movedim(-1, 1)
            for name, maps in self._maps.items()
        }

    def _fill(self, indices: Tensor, clean: Tensor) -> None:
        computed = self._compute(clean)
        if self._maps is None:
            per_image = sum(maps[0].numel() * 2 for maps in computed.values())
            if per_image * self._images > self._limit_bytes:
                self.enabled = False
                return
            self._maps = {
                name: torch.empty(
                    (self._images, *channels_last(maps).shape[1:]),
                    dtype=torch.float16,
                    device=maps.device,
                )
                for name, maps in computed.items()
            }
        rows = indices.to(clean.device)
        for name, maps in computed.items():
            self._maps[name][rows] = channels_last(maps).half()
        self._known[indices] = True


def channels_last(maps: Tensor) -> Tensor:
    """Maps (N,C,...) as (N,...,C), the memory order of loss networks: comparing maps of different
    orders costs a copy at each step."""
    return maps.movedim(1, -1)
