"""Bundles of small networks, written in a moment."""

from pathlib import Path
from typing import Any

from fend.bundles import Manifest, SuspicionRule, load_bundle, save_bundle
from fend.images import InputSpec
from fend.models import build

DIGITS = InputSpec(channels=1, height_px=28, width_px=28, polarity="light_on_dark")


def save(place: Path, **changes: Any) -> Manifest:
    """Untrained networks for digits, but for `changes`: arguments of `save_bundle`."""
    parts = {
        "name": place.name,
        "input_spec": DIGITS,
        "labels": list("0123456789"),
        "denoiser": ("identity", {}, build("identity", {})),
        "classifier": ("paper-lenet", {}, build("paper-lenet", {})),
        "suspicion": SuspicionRule(threshold=0.3, false_positive_rate=0.01),
        "about": {},
        "card": "",
    }
    return save_bundle(place, **(parts | changes))


def save_like(folder: Path, place: Path, **changes: Any) -> Manifest:
    """The bundle in `folder` once more, but for `changes`."""
    bundle = load_bundle(folder)
    content = bundle.manifest.content
    parts = {
        part: (written.architecture, written.config, getattr(bundle.defence, part))
        for part, written in (("denoiser", content.denoiser), ("classifier", content.classifier))
    }
    like = {"input_spec": content.input, "labels": content.labels, "suspicion": content.suspicion}
    return save(place, **(parts | like | changes))
