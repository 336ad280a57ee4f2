"""The clean images' feature maps, computed once: they never change while a denoiser learns."""

from collections.abc import Callable

import torch
from torch import Tensor


class FeatureCache:
    """Fills itself as images are first seen, in half precision, on the device they are computed on.

    A cache that would be larger than `limit_bytes` stays off and computes every time.
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
        """The maps of `clean` (N,C,H,W), which are the images number `indices` (N,)."""
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
    """Maps (N,C,...) as (N,...,C), the order that loss networks keep them in: comparing maps of two
    orders costs a copy each step."""
    return maps.movedim(1, -1)
