"""Budgets of a reproduction, read from profiles.toml."""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from fend.errors import Invalid


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AblationBudget(_Part):
    """Budget of the table that compares the feature loss with pixels alone."""

    networks: tuple[str, ...]
    changes: tuple[str, ...]


class Budget(_Part):
    """Budget of training and attacks."""

    summary: str
    recipes: str
    """The profile of the recipes."""
    data: tuple[str, ...]
    """The data sets that it is made for."""
    images: int = Field(ge=0)
    """Images of the test set that are attacked; 0 is all of them."""
    shard: int = Field(ge=1)
    """Images in one unit of attack: what a stopped run loses at most."""
    paper_seeds: int = Field(ge=1)
    """Seeds of the rows of the paper's own tables, and of pixels alone."""
    other_seeds: int = Field(ge=1)
    changes: tuple[str, ...] = ()
    """KEY=VALUE for every recipe, as `fend train --set` takes them."""
    changes_for: dict[str, tuple[str, ...]] = {}
    """More of them, by the recipe's name."""
    ablation: AblationBudget


def profiles() -> dict[str, Budget]:
    """Every profile by name, the largest first: where several made a cell, the first one counts."""
    text = Path(__file__).with_name("profiles.toml").read_text()
    return {name: Budget.model_validate(table) for name, table in tomllib.loads(text).items()}


def budget_of(profile: str) -> Budget:
    """Raises Invalid (`reproduce_invalid`) where there is no such profile."""
    known = profiles()
    if profile not in known:
        raise Invalid(
            f"--profile: {profile!r} is none of: {', '.join(known)}", code="reproduce_invalid"
        )
    return known[profile]
