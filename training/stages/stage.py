"""The interface of the training stages: what each is given, and what it returns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import nn

from fend.images import InputSpec
from training.data import Splits
from training.losses.feature_loss import FeatureLoss, feature_loss
from training.recipe.schema import AugmentSection, DataSection, DenoiserSection, LossSection, Recipe


@dataclass(frozen=True)
class Context:
    """Inputs of a stage besides its own section of the recipe."""

    input: InputSpec
    data: DataSection
    augment: AugmentSection | None
    splits: Splits
    """Images of `data`."""
    denoiser: DenoiserSection
    loss: LossSection
    """Equation 4 and HGD's additions; interval bounds use their own loss instead."""
    seed: int
    data_dir: Path | None
    run_dir: Path
    """Folder of this recipe's checkpoints."""
    shared_dir: Path
    """Folder of classifiers and adversarial images, which recipes share by digest."""
    resume: bool
    """Whether to continue from the last checkpoint."""
    cut: bool
    """Whether to stop training and take the best checkpoint so far."""
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
            augment=recipe.augment,
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
    """A trained pipeline and the figures of its training."""

    denoiser: nn.Module
    """Denoiser, frozen and in eval mode, as is the classifier."""
    classifier: nn.Module
    figures: dict[str, float]
    """Figures of the best epoch, on held-out images."""
    epochs: int
    """Finished epochs."""


class Stage(Protocol):
    """Makes a denoiser for a classifier, which it may train further."""

    def __call__(self, section: Any, classifier: nn.Module, context: Context) -> Outcome:
        """Train as `section`, the stage's own part of the recipe, says.

        `classifier` is frozen. A stage that trains it changes it in place.
        """
        ...
