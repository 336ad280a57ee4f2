"""A recipe in miniature: `fend train RECIPE --smoke` tries the whole line in seconds."""

from typing import Any

from fend.attacks import AttackSpec
from training.recipe import ClassifierSection, DataSection, Optimiser, Recipe

IMAGES, HELD_OUT_IMAGES = 1_000, 200
CLASSIFIER_EPOCHS, DENOISER_EPOCHS = 3, 2
STEPS = 3
WIDEST = 8
"""Channels: networks that have a `width` get no more."""


def smoke(recipe: Recipe) -> Recipe:
    """The same line on rendered digits: few images, few steps, narrow networks; no data needed.

    A loss network is left out, since its weights are data too.
    """
    classifier, adversarial = recipe.classifier, recipe.classifier.adversarial
    if adversarial is not None:
        adversarial = adversarial.model_copy(update={"steps": STEPS, "step_size": None})
    changes: dict[str, Any] = {
        "name": f"{recipe.name[:58]}-smoke",
        "data": DataSection(
            train="rendered-digits:train",
            test="rendered-digits:test",
            held_out=HELD_OUT_IMAGES,
            limit=IMAGES,
            fit=True,
        ),
        "classifier": ClassifierSection(
            architecture=classifier.architecture,
            config=_narrow(classifier.config),
            epochs=CLASSIFIER_EPOCHS,
            optimiser=Optimiser(learning_rate=2e-3),
            augment=classifier.augment,
            adversarial=adversarial,
        ),
    }
    if classifier.factory is not None:
        changes["classifier"] = classifier  # it is taken as it is, here too
    if recipe.denoiser.epochs:
        config = _narrow(recipe.denoiser.config)
        changes["denoiser"] = recipe.denoiser.model_copy(
            update={"epochs": DENOISER_EPOCHS, "config": config}
        )
    if recipe.adversaries is not None:
        attacks = [shortened(attack, STEPS) for attack in recipe.adversaries.attacks]
        changes["adversaries"] = recipe.adversaries.model_copy(update={"attacks": attacks})
    for key in ("online", "joint"):
        made = getattr(recipe, key)
        if made is not None:
            learnt = made.adversarial.model_copy(update={"steps": STEPS, "step_size": None})
            changes[key] = made.model_copy(update={"adversarial": learnt})
    if recipe.loss is not None and recipe.loss.network != "classifier":
        changes["loss"] = recipe.loss.model_copy(update={"network": None, "pixel_weight": 1.0})
    return recipe.model_copy(update=changes)


def shortened(attack: AttackSpec, most: int) -> AttackSpec:
    """`attack` with at most `most` steps, queries or draws; longer steps where there are fewer."""
    spent = {
        key: getattr(attack, key)
        for key in ("steps", "queries", "draws")
        if key in type(attack).model_fields
    }
    changes: dict[str, Any] = {key: min(value, most) for key, value in spent.items()}
    if changes != spent and "step_size" in type(attack).model_fields:
        changes["step_size"] = None
    return attack.model_copy(update=changes)


def _narrow(config: dict[str, Any]) -> dict[str, Any]:
    return config | ({"width": min(config["width"], WIDEST)} if "width" in config else {})
