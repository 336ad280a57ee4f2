"""Pixels to an 8-bit PNG."""

import io

import torch
from PIL import Image


def encode_png(pixels: torch.Tensor) -> bytes:
    """Write (C,H,W) pixels in [0,1], C 1 or 3, as an 8-bit PNG, rounded to the nearest level.

    Values that `decode` gave come back exactly.

    Raises:
        ValueError: wrong shape, not a number, or outside [0,1] by half a level or more.
    """
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"expected pixels of shape (1 or 3, H, W), got {tuple(pixels.shape)}")
    levels = (pixels.detach().to("cpu", torch.float32) * 255).round()
    if not bool(((levels >= 0) & (levels <= 255)).all()):
        raise ValueError("expected pixels in [0, 1]; clamp them first")
    samples = levels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
