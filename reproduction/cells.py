"""The cells of a reproduction: which defence is trained on which data with which seed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from fend.errors import Invalid
from fend.threat import Knowledge
from reproduction.attacks import EIGHT, GREY, paper_attacks, white_box_attacks
from reproduction.profiles import Budget, budget_of
from training.losses.networks import SOURCES
from training.recipe import Recipe
from training.recipe.files import load_recipe
from training.recipe.smaller import smoke

Group = Literal["defences", "ablation"]

DEFENCES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mnist": (
            "unsecured", "madry", "hgd", "feature-loss", "pixel-mse", "feature-squeezing",
            "noise-reduction", "trades", "joint", "hgd-feature", "hgd-pixel", "feature-denoise",
            "alp", "online",
        ),
        "cifar10-grey": ("unsecured", "madry", "hgd", "feature-loss", "pixel-mse"),
        "cifar10": ("unsecured", "madry", "feature-loss"),
    }
)  # fmt: skip
"""By data set, in the order in which they are run: the paper's own rows first."""

PAPER_ROWS = ("unsecured", "madry", "hgd", "feature-loss", "pixel-mse")
"""The rows of Tables 1 and 2, and what the paper's loss must beat."""

_RECIPES = {"mnist-joint": "mnist"}
"""Where a recipe is not called <data>-<defence>."""

EPSILONS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"mnist": (GREY,), "cifar10-grey": (GREY, EIGHT), "cifar10": (EIGHT,)}
)

ALL_LEVELS = (
    Knowledge.BLACK_BOX, Knowledge.GREY_BOX, Knowledge.GREY_BOX_AWARE, Knowledge.WHITE_BOX,
)  # fmt: skip
ABLATION_LEVELS = (Knowledge.GREY_BOX, Knowledge.WHITE_BOX)


@dataclass(frozen=True)
class Cell:
    """One defence on one data set with one seed."""

    data: str
    group: Group
    defence: str
    seed: int
    profile: str
    recipe: Recipe
    levels: tuple[Knowledge, ...]
    epsilons: tuple[float, ...]
    images: int | None
    """Images of the test set; None is all."""
    shard: int

    @property
    def name(self) -> str:
        """Unique, and fit for a file."""
        group = "" if self.group == "defences" else f"{self.group}-"
        return f"{self.data}-{group}{self.defence}-seed{self.seed}.{self.profile}"

    @property
    def key(self) -> str:
        """Digest of what decides the result: a result with another key is of another cell."""
        decides = [
            # Without what is not set: a new key of recipes or attacks must not make every cell
            # another one.
            self.recipe.model_dump(mode="json", exclude={"summary"}, exclude_none=True),
            list(self.levels), list(self.epsilons), self.images, self._attacks(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]

    def _attacks(self) -> list[tuple[str, dict[str, Any]]]:
        attacks = list(white_box_attacks(self.profile, self.recipe.denoiser.architecture))
        for epsilon in self.epsilons:
            attacks += paper_attacks(self.profile, epsilon)
        return [(item.name, item.model_dump(mode="json", exclude_unset=True)) for item in attacks]


def plan(
    profile: str, *, data: Sequence[str] = (), only: Sequence[str] = (), seeds: int | None = None
) -> list[Cell]:
    """Every cell that is asked for, the most telling ones first.

    `data` and `only` (defences, or "ablation") empty mean all; `seeds` is how many of each row,
    and None what the profile says.

    Raises:
        Invalid (`reproduce_invalid`): a profile, data set or defence that there is not.
        RecipeError: a recipe that does not fit.
    """
    budget = budget_of(profile)
    chosen = data or budget.data
    _check("--data", chosen, budget.data)
    known = dict.fromkeys(defence for name in chosen for defence in DEFENCES[name])
    _check("--only", only, [*known, "ablation"])
    rows = []
    for name in chosen:
        rows += [(name, item, _seeds(item, budget, seeds)) for item in DEFENCES[name]]
    cells = []
    for seed in range(max(count for _, _, count in rows)):
        for name, defence, count in rows:
            if seed < count and (not only or defence in only):
                cells.append(_defence(name, defence, seed, profile, budget))
        if "mnist" in chosen and (not only or "ablation" in only):
            wanted = seed < (seeds or budget.other_seeds)
            cells += _ablation(seed, profile, budget) if wanted else []
    return cells


def _check(flag: str, asked: Sequence[str], known: Mapping[str, object] | Sequence[str]) -> None:
    for item in asked:
        if item not in known:
            raise Invalid(
                f"{flag}: {item!r} is none of: {', '.join(known)}", code="reproduce_invalid"
            )


def _seeds(defence: str, budget: Budget, asked: int | None) -> int:
    return asked or (budget.paper_seeds if defence in PAPER_ROWS else budget.other_seeds)


def _defence(data: str, defence: str, seed: int, profile: str, budget: Budget) -> Cell:
    name = _RECIPES.get(f"{data}-{defence}", f"{data}-{defence}")
    changes = [*budget.changes, *budget.changes_for.get(name, ())]
    # Our own models have no other budget than the full one; the changes make it smaller.
    own = name in ("mnist", "mnist-online")
    recipe = load_recipe(
        name, profile="full" if own else budget.recipes, changes=changes, seed=seed
    )
    return _cell(data, "defences", defence, profile, budget, recipe, ALL_LEVELS)


def _ablation(seed: int, profile: str, budget: Budget) -> list[Cell]:
    """Pixels alone, then the loss with each network and tap profile: all else equal."""
    variants = {"none": ["loss.network=none"]}
    for network in budget.ablation.networks:
        if network not in SOURCES:
            raise Invalid(
                f"profiles.toml: there is no loss network {network!r}", code="reproduce_invalid"
            )
        for taps in SOURCES[network].taps:
            variants[f"{network}-{taps}"] = [f"loss.network={network}", f"loss.taps={taps}"]
        if network in ("vgg16-imagenet", "vgg16-cifar10"):
            # Equation 4 as printed: every term a plain mean, whatever the magnitude of the maps.
            text = variants[f"{network}-text"]
            variants[f"{network}-text-elements"] = [*text, "loss.scaling=elements"]
            variants[f"{network}-text-bfloat16"] = [*text, "loss.precision=bfloat16"]
        if network == "squeezenet-imagenet":
            fire = variants[f"{network}-fire"]
            variants[f"{network}-fire-64px"] = [*fire, "loss.input_px=64"]
            variants[f"{network}-fire-tenth"] = [*fire, "loss.feature_weight=0.1"]
    cells = []
    for variant, loss in variants.items():
        changes = [
            *budget.changes, *budget.ablation.changes, "loss.scaling=magnitude", *loss,
            f"name=mnist-ablation-{variant}",
        ]  # fmt: skip
        recipe = load_recipe(
            "mnist-feature-loss", profile=budget.recipes, changes=changes, seed=seed
        )
        cells.append(_cell("mnist", "ablation", variant, profile, budget, recipe, ABLATION_LEVELS))
    return cells


def _cell(
    data: str,
    group: Group,
    defence: str,
    profile: str,
    budget: Budget,
    recipe: Recipe,
    levels: tuple[Knowledge, ...],
) -> Cell:
    return Cell(
        data=data,
        group=group,
        defence=defence,
        seed=recipe.seed,
        profile=profile,
        recipe=_in_miniature(recipe) if profile == "smoke" else recipe,
        levels=levels,
        epsilons=EPSILONS[data],
        images=budget.images or None,
        shard=budget.shard,
    )


def _in_miniature(recipe: Recipe) -> Recipe:
    """`fend train --smoke` on still fewer images: a trial of the command, not of the defence."""
    small = smoke(recipe)
    data = small.data.model_copy(update={"limit": 300, "held_out": 60})
    return small.model_copy(update={"data": data})
