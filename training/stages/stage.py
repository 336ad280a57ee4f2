"""What every stage of a training gets, and what the one that makes the denoiser gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import nn

from fend.images import InputSpec
from training.data import Splits
from training.losses.feature_loss import FeatureLoss, feature_loss
from training.recipe.schema import DataSection, DenoiserSection, LossSection, Recipe


@dataclass(frozen=True)
class Context:
    """What a stage works with besides its own section of the recipe."""

    input: InputSpec
    data: DataSection
    splits: Splits
    """The images of `data`."""
    denoiser: DenoiserSection
    loss: LossSection
    """Equation 4 and what HGD adds; interval bounds have a loss of their own instead."""
    seed: int
    data_dir: Path | None
    run_dir: Path
    """Folder of this recipe's checkpoints."""
    shared_dir: Path
    """Folder of what recipes share: classifiers and adversarial images, by digest."""
    resume: bool
    """Go on from the last checkpoint."""
    cut: bool
    """Train no further: the best checkpoint so far is the outcome."""
    device: torch.device
    console: Console

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        splits: Splits,
        *,
        data_dir: Path | None,
        runs_dir: Path,
        resume: bool = False,
        cut: bool = False,
        device: torch.device,
        console: Console,
    ) -> "Context":
        """The context that the stages of `recipe` share; `splits` are its images."""
        return cls(
            input=recipe.input,
            data=recipe.data,
            splits=splits,
            denoiser=recipe.denoiser,
            loss=recipe.loss or LossSection(),
            seed=recipe.seed,
            data_dir=data_dir,
            run_dir=runs_dir / recipe.name,
            shared_dir=runs_dir,
            resume=resume,
            cut=cut,
            device=device,
            console=console,
        )

    def feature_loss(self, classifier: nn.Module) -> FeatureLoss:
        """The loss of the recipe; see `training.losses.feature_loss`."""
        return feature_loss(self.loss, classifier, self.data_dir, self.device)


@dataclass(frozen=True)
class Outcome:
    """A pipeline, and how its training went."""

    denoiser: nn.Module
    """Frozen, in eval mode; so is the classifier."""
    classifier: nn.Module
    figures: dict[str, float]
    """Figures of the best epoch, on held-out images."""
    epochs: int
    """Epochs that were finished."""


class Stage(Protocol):
    """Makes a denoiser for a classifier, which it may train further."""

    def __call__(self, section: Any, classifier: nn.Module, context: Context) -> Outcome:
        """Train as `section`, the stage's own part of the recipe, says.

        `classifier` is frozen. A stage that trains it changes it in place.
        """
        ...
