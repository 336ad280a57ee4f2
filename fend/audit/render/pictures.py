"""The example images of a report as they are put on a page."""

import base64
import io

import numpy as np
from PIL import Image, PngImagePlugin

from fend.audit.rows.table import rows_invalid

LARGEST_PX = 1_024
"""A side of an example: more is no image of a classifier."""


def data_uri(png: str) -> str:
    """A PNG in base64, decoded and written again, so that nothing but pixels gets on the page.

    Raises:
        Invalid (`audit_rows_invalid`): it is no such PNG, or too large.
    """
    return _uri(_open(png))


def perturbation_uri(clean_png: str, adversarial_png: str) -> str:
    """What the attack added, amplified: grey is nothing, black and white are its largest change.

    Raises:
        Invalid (`audit_rows_invalid`): they are no PNGs of one size.
    """
    clean, adversarial = _open(clean_png), _open(adversarial_png)
    if clean.size != adversarial.size or clean.mode != adversarial.mode:
        raise rows_invalid("an example's images differ in their size or their channels")
    delta = np.asarray(adversarial, np.float32) - np.asarray(clean, np.float32)
    largest = max(float(np.abs(delta).max()), 1.0)
    amplified = np.rint(127.5 + 127.5 * delta / largest).astype(np.uint8)
    return _uri(Image.fromarray(amplified))


def _open(png: str) -> Image.Image:
    try:
        image = PngImagePlugin.PngImageFile(io.BytesIO(base64.b64decode(png, validate=True)))
        if max(image.size) > LARGEST_PX:
            raise rows_invalid(f"an example is {image.size[0]} x {image.size[1]} pixels")
        return image.convert("L" if image.mode in ("1", "L", "I", "I;16") else "RGB")
    except (ValueError, OSError, SyntaxError) as error:
        raise rows_invalid(f"an example is no PNG in base64: {error}") from error


def _uri(image: Image.Image) -> str:
    written = io.BytesIO()
    image.save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
