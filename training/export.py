"""From trained networks to a bundle that the service loads, with its model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fend import __version__
from fend.bundles import Manifest, Smoothing, SuspicionRule, save_bundle
from fend.datasets import ImageSet
from fend.models import parameter_count
from fend.pipeline import Defence, suspicion
from training.card import model_card
from training.data import Splits
from training.evaluate import device_of, parts
from training.recipe import Recipe
from training.stages.classifier import Classifier
from training.stages.stage import Outcome

FALSE_POSITIVE_RATE = 0.01
"""Largest share of clean held-out images that may be flagged as suspicious."""

SMALLEST_THRESHOLD = 0.01
"""Lowest threshold of suspicion, in bits: a good denoiser hardly changes a clean image, and smaller
differences are rounding."""


def export_bundle(
    folder: Path,
    recipe: Recipe,
    classifier: Classifier,
    outcome: Outcome,
    splits: Splits,
    *,
    about: Mapping[str, Any],
) -> Manifest:
    """Write a bundle to `folder`; an older one is replaced whole.

    The networks are those of `outcome`, since a stage may train the classifier further. `about` is
    added to the manifest's section of that name.
    """
    all_about = {
        "summary": recipe.summary,
        "recipe": recipe.model_dump(mode="json"),
        "loss_network": recipe.loss.network if recipe.loss else None,
        "taps": recipe.loss.taps if recipe.loss else None,
        "data": {
            "train": {
                "name": splits.train.name,
                "images": len(splits.train),
                "digest": splits.train.digest,
            },
            "held_out": {"images": len(splits.held_out), "digest": splits.held_out.digest},
        },
        "held_out": outcome.figures,
        "classifier_held_out": classifier.fitted.figures if classifier.fitted else {},
        "foreign_classifier": classifier.origin.about() if classifier.origin else None,
        **({} if recipe.threat is None else {"threat": recipe.threat.model_dump(mode="json")}),
        "epochs": {"planned": recipe.denoiser.epochs, "finished": outcome.epochs},
        "parameters": {
            "denoiser": parameter_count(outcome.denoiser),
            "classifier": parameter_count(outcome.classifier),
        },
        "made_with": {"fend": __version__, "torch": torch.__version__},
        **about,
    }
    return save_bundle(
        folder,
        name=recipe.name,
        input_spec=recipe.input,
        labels=list(splits.train.label_names),
        denoiser=(recipe.denoiser.architecture, recipe.denoiser.config, outcome.denoiser),
        classifier=(classifier.architecture, classifier.config, outcome.classifier),
        suspicion=_suspicion_rule(Defence(outcome.denoiser, outcome.classifier), splits.held_out),
        smoothing=None if recipe.noise is None else Smoothing(sigma=recipe.noise.sigma),
        about=all_about,
        card=model_card(recipe.name, all_about),
    )


@torch.no_grad()
def _suspicion_rule(defence: Defence, images: ImageSet) -> SuspicionRule:
    """The score that at most `FALSE_POSITIVE_RATE` of clean images exceed, and their share."""
    device = device_of(defence)
    batches: list[Tensor] = []
    for indices in parts(defence, images):
        answers = defence.answer(images.pixels(indices).to(device))
        batches.append(suspicion(answers.logits, answers.undefended_logits).cpu())
    scores = torch.cat(batches)
    quantile = float(torch.quantile(scores, 1 - FALSE_POSITIVE_RATE))
    threshold = max(round(quantile, 6), SMALLEST_THRESHOLD)
    flagged = float((scores > threshold).double().mean())
    return SuspicionRule(threshold=threshold, false_positive_rate=round(flagged, 6))
