"""From TOML to a recipe: its base, the chosen profile, and changes on the command line.

All three are the same operation: one table is laid over another (`overlaid`).

    extends = "mnist-unsecured"        # a shipped recipe, or a file beside this one
    name = "mnist-mine"
    [classifier]                       # only what differs
    epochs = 20
    [profiles.cpu.classifier]          # what differs with --profile cpu
    epochs = 5
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from training.classifiers.said import Said
from training.classifiers.sources import is_bundle
from training.recipe import Recipe, RecipeError

FULL = "full"
"""The profile that every recipe has: the recipe as written."""

_OWN_KEYS = ("name", "summary")
"""Keys that are not inherited: two bundles of one name would replace each other."""


def load_recipe(
    name_or_path: str,
    *,
    profile: str = FULL,
    changes: Sequence[str] = (),
    seed: int | None = None,
) -> Recipe:
    """A shipped recipe by name, or any TOML file by path.

    `changes` are KEY=VALUE, such as "data.limit=1000", laid over it last. A `seed` other than the
    recipe's own is added to the name, so that models of several seeds can stand side by side.

    Raises:
        RecipeError: no such recipe or profile, not TOML, or a key that is unknown, missing or out
            of range.
    """
    raw = recipe_table(name_or_path)
    profiles = raw.pop("profiles", {})
    if profile != FULL:
        if profile not in profiles:
            known = ", ".join([FULL, *profiles])
            raise RecipeError(f"{name_or_path} has no profile {profile!r}; it has: {known}")
        raw = overlaid(raw, profiles[profile])
    for change in changes:
        raw = overlaid(raw, _parse_change(change))
    raw = overlaid(raw, {"profile": profile})
    if seed is not None and seed != raw.get("seed", 0):
        raw = overlaid(raw, {"seed": seed, "name": f"{raw.get('name', '')}-seed{seed}"})
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {_key(e['loc'])}: {e['msg']}" for e in error.errors()]
        raise RecipeError(f"{name_or_path} cannot be used:\n" + "\n".join(lines)) from error


def foreign_changes(
    recipe: str,
    factory: str | None,
    weights: str | None,
    labels: str | None = None,
    said: Said | None = None,
) -> list[str]:
    """The changes that make `recipe` protect the classifier of the source `factory`, under a name
    of its own; what the recipe's summary promises was measured with another. `said` is what the
    source and the user say of it."""
    said = said or Said()
    spec = {
        "channels": said.channels,
        "height_px": said.size_px and said.size_px[0],
        "width_px": said.size_px and said.size_px[1],
        "resize": said.resize,
        "crop_from_px": said.crop_from_px,
        "interpolation": said.interpolation,
        "polarity": "as_is" if said.channels == 3 else None,
    }
    about = {
        "weights": weights, "labels": labels, "bgr": said.bgr,
        "mean": said.mean and list(said.mean), "std": said.std and list(said.std),
    }  # fmt: skip
    parts: dict[str, Any] = {f"input.{name}": value for name, value in spec.items()}
    parts |= {f"classifier.{name}": value for name, value in about.items()}
    of_it = {key: value for key, value in parts.items() if value is not None}
    if factory is None:
        return [f"{key}={json.dumps(value)}" for key, value in of_it.items()]
    source = Path(factory.split(":")[-1]).name
    own_name = re.sub(r"[^a-z0-9._-]", "-", f"{Path(recipe).stem}-{source}".lower())
    summary = (
        f"Recipe {Path(recipe).stem} for the classifier {factory}, which was taken as it is. What "
        "it withstands has not been measured: `fend audit` does."
    )
    values = {
        "name": own_name[:64],
        "summary": summary,
        "classifier.from_bundle" if is_bundle(factory) else "classifier.factory": factory,
        **of_it,
    }
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with Fend."""
    folder = resources.files("training") / "recipes"
    files = [file.name for file in folder.iterdir() if file.name.endswith(".toml")]
    return sorted(name.removesuffix(".toml") for name in files)


def overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over`; tables merge key by key, other values are replaced.

    Options of another choice are dropped: with another `kind` a table is replaced whole, and with
    another `architecture` its `config` is.
    """
    if "kind" in over and over["kind"] != base.get("kind"):
        return dict(over)
    merged = dict(base)
    if "architecture" in over and over["architecture"] != base.get("architecture"):
        merged.pop("config", None)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = overlaid(below, value)
        else:
            merged[key] = value
    return merged


def recipe_table(
    name_or_path: str, seen: tuple[str, ...] = (), beside: Path | None = None
) -> dict[str, Any]:
    """The recipe laid over everything it extends, profiles included."""
    path = Path(name_or_path)
    if name_or_path in shipped_recipes():
        text = (resources.files("training") / "recipes" / f"{name_or_path}.toml").read_text()
    else:
        path = path if beside is None else beside / path
        if not path.is_file():
            known = ", ".join(shipped_recipes())
            raise RecipeError(f"no recipe {name_or_path!r}: give a TOML file or one of: {known}")
        text = path.read_text()
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name_or_path} is not TOML: {error}") from error
    extends = raw.pop("extends", None)
    if extends is None:
        return raw
    if not isinstance(extends, str) or extends in seen:
        raise RecipeError(f"{name_or_path}: extends: {extends!r} is no other recipe")
    base = recipe_table(extends, (*seen, name_or_path, extends), path.parent)
    return overlaid({k: v for k, v in base.items() if k not in _OWN_KEYS}, raw)


def _parse_change(change: str) -> dict[str, Any]:
    """The table that KEY=VALUE stands for; a value that is not TOML is text."""
    key, equals, value = change.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"{change!r} is not KEY=VALUE, such as data.limit=1000")
    try:
        return tomllib.loads(f"{key}={value}")
    except tomllib.TOMLDecodeError:
        table: Any = value
        for part in reversed(key.strip().split(".")):
            table = {part: table}
        return dict(table)


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "recipe"
