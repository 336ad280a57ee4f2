"""Is the picture dark on light?"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

# Below this a picture counts as empty: paper grain and JPEG noise stay under it.
_MIN_CONTRAST = 0.05

_Plane = npt.NDArray[np.float32]


def is_dark_on_light(luma: _Plane, alpha: _Plane | None) -> bool:
    """Compare the border, which is taken as the ground, with what stands out from it.

    The ground is the median of the outer ring (a tenth of the shorter side). Dark on light means
    that the darkest pixels are farther from it than the lightest ones. Extremes are the 1st and
    99th percentile. A picture without contrast (all black, all white) is left as it is.

    Transparent pixels say nothing and are left out. When most of the ring is transparent there is
    no ground to see, and the drawing itself decides: dark strokes were meant for a light ground.

    Args:
        luma: (H,W) brightness in [0,1], not composited.
        alpha: (H,W) in [0,1], or None for an opaque picture.
    """
    ring = _ring(*luma.shape)
    if alpha is None:
        border, everything = luma[ring], luma.ravel()
    else:
        if alpha[ring].mean() >= 0.5:
            visible = alpha >= 0.5
        else:  # weighted, because thin strokes are faint after scaling down
            return bool(alpha.sum() > 0 and (alpha * luma).sum() < 0.5 * alpha.sum())
        border, everything = luma[ring & visible], luma[visible]
    border, everything = np.sort(border), np.sort(everything)
    one_percent = len(everything) // 100
    ground = border[len(border) // 2]
    darkest, lightest = everything[one_percent], everything[-1 - one_percent]
    return bool(ground - darkest > max(lightest - ground, _MIN_CONTRAST))


@lru_cache(maxsize=64)  # few shapes are left after scaling, and most of the time here went into it
def _ring(height_px: int, width_px: int) -> npt.NDArray[np.bool_]:
    ring = np.ones((height_px, width_px), dtype=bool)
    width = max(1, min(height_px, width_px) // 10)
    ring[width:-width, width:-width] = False
    ring.flags.writeable = False
    return ring
