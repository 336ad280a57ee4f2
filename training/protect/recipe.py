"""The recipe that protects a classifier: the template, fitted to the classifier and the images."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fend.models import build
from fend.models.memory import images_at_once
from fend.pipeline import Defence
from training.classifiers import ForeignClassifier
from training.losses.networks import SOURCES
from training.recipe.files import overlaid, recipe_table

TEMPLATE = "photo-online"
HELD_OUT = 100
_SMOKE: Mapping[str, Any] = {
    "data": {"limit": 8},
    "denoiser": {"epochs": 1, "batch_size": 4, "config": {"width": 8}},
}


@dataclass(frozen=True)
class Choice:
    """What is asked for."""

    name: str
    """Of the bundle."""
    classifier: Mapping[str, Any]
    """The keys of the recipe's section that name it."""
    train: str
    test: str
    learns: bool = False
    """Whether the classifier learns as well."""
    identity: bool = False
    """Whether the denoiser does nothing."""
    smoke: bool = False
    skip_bad: bool = False


def recipe_for(
    choice: Choice, classifier: ForeignClassifier, images: int, data_dir: Path | None
) -> dict[str, Any]:
    """The recipe's table, for so many images to learn from."""
    spec = classifier.input
    longest = max(spec.height_px, spec.width_px)
    held_out = min(4 if choice.smoke else HELD_OUT, max(1, images // 5))
    fold = 4 if longest > 160 else 2 if longest > 64 else 1
    table = recipe_table(TEMPLATE)
    table |= {
        "name": choice.name,
        "summary": _summary(choice),
        "input": spec.model_dump(exclude_none=True),
        "classifier": dict(choice.classifier),
        "data": {"train": choice.train, "test": choice.test, "held_out": held_out},
    }
    if choice.skip_bad:
        table["data"]["skip_bad"] = True
    if choice.identity:
        kept = {key: value for key, value in table.items() if key not in ("online", "loss")}
        return kept | {"denoiser": {"architecture": "identity"}}
    fitting = {
        "loss": {"input_px": min(512, max(28, longest))},
        "denoiser": {"config": {"channels": spec.channels, "fold": fold}},
    }
    table = overlaid(table, fitting)
    if choice.smoke:
        table = overlaid(table, _SMOKE)
    file = SOURCES[table["loss"]["network"]].file
    if choice.smoke or data_dir is None or not (data_dir / "loss-networks" / file).is_file():
        table["loss"]["network"] = "none"
    network = Defence(build("residual-unet", table["denoiser"]["config"]), classifier.module)
    shape = (spec.channels, spec.height_px, spec.width_px)
    at_once = images_at_once(network, shape, 1_000) // 2  # a clean one and an attacked one
    table["denoiser"]["batch_size"] = max(1, min(table["denoiser"]["batch_size"], at_once))
    if choice.learns:
        table["joint"] = table.pop("online")
        table["loss"]["task_weight"] = 0.0
        table["classifier"]["learns"] = True
    return table


def _summary(choice: Choice) -> str:
    source = choice.classifier.get("factory") or choice.classifier["from_bundle"]
    if choice.identity:
        return f"The classifier {source} as it is: the denoiser does nothing."
    which = "trained further together with it" if choice.learns else "which stays as it is"
    return f"A residual U-Net in front of the classifier {source}, {which}."


def as_toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """`table` with a dotted key on each line."""
    lines = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines.append(as_toml(value, f"{prefix}{key}."))
        else:
            lines.append(f"{prefix}{key} = {json.dumps(value)}\n")
    return "".join(lines)
