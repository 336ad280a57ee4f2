"""Smaller versions of a recipe: in miniature for `fend train --smoke`, and an attacker's surrogate.

An attacker without the weights trains a surrogate and hopes that images that fool it also fool the
target. Ours gets another seed, short attacks and Adam: two and a half minutes on one core for the
shipped `mnist`.
"""

from typing import Any

from pydantic import ValidationError

from fend.attacks import AttackSpec
from fend.bundles import Manifest
from fend.errors import Invalid
from training.recipe.schema import (
    AdversarialSection,
    ClassifierSection,
    DataSection,
    Optimiser,
    Recipe,
)

SMOKE_IMAGES, SMOKE_HELD_OUT_IMAGES = 1_000, 200
SMOKE_CLASSIFIER_EPOCHS, SMOKE_DENOISER_EPOCHS = 3, 2
SMOKE_STEPS = 3
SMOKE_WIDTH = 8
"""Largest `width`, in channels, of networks that have one."""

SURROGATE_IMAGES, SURROGATE_HELD_OUT_IMAGES = 6_000, 500
SURROGATE_CLASSIFIER_EPOCHS, SURROGATE_DENOISER_EPOCHS = 8, 6
SURROGATE_STATIC_STEPS, SURROGATE_ONLINE_STEPS = 20, 5
SURROGATE_OPTIMISER = Optimiser(learning_rate=1e-3, schedule="cosine")


def smoke(recipe: Recipe) -> Recipe:
    """The recipe on typeset digits: few images, few steps, narrow networks; no data needed.

    A loss network is left out, since its weights are data as well.
    """
    classifier, adversarial = recipe.classifier, recipe.classifier.adversarial
    changes: dict[str, Any] = {
        "name": f"{recipe.name[:58]}-smoke",
        "data": DataSection(
            train="rendered-digits:train",
            test="rendered-digits:test",
            held_out=SMOKE_HELD_OUT_IMAGES,
            limit=SMOKE_IMAGES,
            fit=True,
        ),
        "classifier": ClassifierSection(
            architecture=classifier.architecture,
            config=_narrow(classifier.config),
            epochs=SMOKE_CLASSIFIER_EPOCHS,
            optimiser=Optimiser(learning_rate=2e-3),
            augment=classifier.augment,
            adversarial=adversarial and _with_steps(adversarial, SMOKE_STEPS),
        ),
    }
    if classifier.factory is not None:
        changes["classifier"] = classifier  # it stays unchanged here as well
    if recipe.denoiser.epochs:
        narrow = {"epochs": SMOKE_DENOISER_EPOCHS, "config": _narrow(recipe.denoiser.config)}
        changes["denoiser"] = recipe.denoiser.model_copy(update=narrow)
    if recipe.loss is not None and recipe.loss.network != "classifier":
        changes["loss"] = recipe.loss.model_copy(update={"network": None, "pixel_weight": 1.0})
    for key in ("online", "joint"):
        if (made := getattr(recipe, key)) is not None:
            fewer = _with_steps(made.adversarial, SMOKE_STEPS)
            changes[key] = made.model_copy(update={"adversarial": fewer})
    return recipe.model_copy(update=changes | _short_attacks(recipe, SMOKE_STEPS))


def surrogate_recipe(manifest: Manifest, seed: int) -> Recipe:
    """The recipe of the bundle with another seed and smaller budgets.

    Raises:
        Invalid: the bundle holds no recipe, or one that this version cannot read
            (`surrogate_impossible`).
    """
    original = _recipe_of(manifest)
    classifier, adversarial = original.classifier, original.classifier.adversarial
    if adversarial is not None and adversarial.steps > SURROGATE_ONLINE_STEPS:
        adversarial = _with_steps(adversarial, SURROGATE_ONLINE_STEPS)
    network = manifest.content.classifier  # the recipe may have taken it from another bundle
    if network.architecture == "graph":
        # The user's code is not run again; the attacker has a network of its own.
        network = network.model_copy(update=_own_network(original, len(manifest.content.labels)))
    changes: dict[str, Any] = {
        "name": f"{original.name[:54]}-surrogate",
        "summary": f"A surrogate of {original.name}, for attacks without its weights.",
        "seed": seed,
        "data": original.data.model_copy(
            update={
                "limit": min(original.data.limit or SURROGATE_IMAGES, SURROGATE_IMAGES),
                "held_out": min(original.data.held_out, SURROGATE_HELD_OUT_IMAGES),
            }
        ),
        "classifier": classifier.model_copy(
            update={
                **dict.fromkeys(("from_bundle", "factory", "weights", "mean", "std", "bgr")),
                "labels": None,
                "learns": False,
                "architecture": network.architecture,
                "config": network.config,
                "epochs": min(classifier.epochs, SURROGATE_CLASSIFIER_EPOCHS),
                "optimiser": SURROGATE_OPTIMISER,
                "adversarial": adversarial,
            }
        ),
    }
    if original.denoiser.epochs:
        epochs = min(original.denoiser.epochs, SURROGATE_DENOISER_EPOCHS)
        changes["denoiser"] = original.denoiser.model_copy(
            update={"epochs": epochs, "optimiser": SURROGATE_OPTIMISER}
        )
    for key in ("online", "joint"):
        made = getattr(original, key)
        if made is not None and made.adversarial.steps > SURROGATE_ONLINE_STEPS:
            fewer = _with_steps(made.adversarial, SURROGATE_ONLINE_STEPS)
            changes[key] = made.model_copy(update={"adversarial": fewer})
    return original.model_copy(update=changes | _short_attacks(original, SURROGATE_STATIC_STEPS))


def _own_network(recipe: Recipe, classes: int) -> dict[str, Any]:
    """A small classifier of the images: the recipe's own where they are MNIST's size."""
    spec = recipe.input
    sides_px = (spec.height_px, spec.width_px)
    if (spec.channels, *sides_px) == (1, 28, 28):
        classifier = recipe.classifier
        return {"architecture": classifier.architecture, "config": classifier.config}
    folds = [fold for fold in (8, 4, 2) if not any(px % fold or px < 16 * fold for px in sides_px)]
    config = {"classes": classes, "channels": spec.channels, "fold": (*folds, 1)[0]}
    return {"architecture": "preact-resnet", "config": config}


def _with_steps(section: AdversarialSection, steps: int) -> AdversarialSection:
    if section.attack == "n-fgsm":
        return section  # one step is its all
    return section.model_copy(update={"steps": steps, "step_size": None})


def _short_attacks(recipe: Recipe, most: int) -> dict[str, Any]:
    """The change that shortens the static attacks of `recipe`, if it has any."""
    if recipe.adversaries is None:
        return {}
    attacks = [shortened(attack, most) for attack in recipe.adversaries.attacks]
    return {"adversaries": recipe.adversaries.model_copy(update={"attacks": attacks})}


def shortened(attack: AttackSpec, most: int) -> AttackSpec:
    """`attack` with at most `most` steps, queries or draws, and the step size that fits them."""
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
    """`config` with narrow layers and ten classes, which typeset digits have."""
    changes = {"widths": [SMOKE_WIDTH, SMOKE_WIDTH], "classes": 10}
    if "width" in config:
        changes["width"] = min(config["width"], SMOKE_WIDTH)
    return config | {key: value for key, value in changes.items() if key in config}


def _recipe_of(manifest: Manifest) -> Recipe:
    written = manifest.about.get("recipe")
    if written is None:
        raise Invalid(
            f"{manifest.name} does not say by which recipe it was trained (manifest: about.recipe),"
            " so no surrogate can be; name another bundle for the same images as the surrogate",
            code="surrogate_impossible",
        )
    try:
        return Recipe.model_validate(written)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise Invalid(
            f"the recipe in {manifest.name} (manifest: about.recipe) cannot be used: "
            f"{key}: {first['msg']}; name another bundle for the same images as the surrogate",
            code="surrogate_impossible",
        ) from error
