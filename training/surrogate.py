"""The attacker's own model: another classifier and denoiser by the same recipe, on a small budget.

An attacker without the weights trains one in the hope that what fools it fools the model, too. Ours
gets at most 6,000 images of the same data set, 8 epochs of the classifier and 6 of the denoiser,
and short attacks, with Adam: two and a half minutes on one core for the shipped `mnist`.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.console import Console

from fend.bundles import Manifest, read_manifest
from fend.errors import FendError
from training.line import run_recipe
from training.recipe import Optimiser, Recipe
from training.smoke import shortened

IMAGES, HELD_OUT_IMAGES = 6_000, 500
CLASSIFIER_EPOCHS, DENOISER_EPOCHS = 8, 6
STATIC_STEPS, ONLINE_STEPS = 20, 5
OPTIMISER = Optimiser(learning_rate=1e-3, schedule="cosine")


class SurrogateImpossible(FendError):
    """A bundle does not say how to make another of its kind."""

    code = "surrogate_impossible"


def train_surrogate(bundle_dir: Path, out_dir: Path, *, data_dir: Path | None, seed: int) -> None:
    """Train a surrogate of the bundle at `bundle_dir`; `out_dir` appears whole or not at all.

    Data and loss network are read from `data_dir`; progress goes to stderr.

    Raises:
        SurrogateImpossible: the bundle holds no recipe, or one that this version cannot read.
        FendError: its data set or loss network is not there.
    """
    manifest = read_manifest(bundle_dir)
    recipe = surrogate_recipe(manifest, seed)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f".{out_dir.name}-") as runs:
        run_recipe(
            recipe,
            data_dir=data_dir,
            bundle_dir=out_dir,
            runs_dir=Path(runs),
            resume=False,
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            console=Console(stderr=True),
            about={"surrogate_of": manifest.version},
        )


def surrogate_recipe(manifest: Manifest, seed: int) -> Recipe:
    """The recipe of the bundle with another seed and less of everything that takes time."""
    original = _recipe_of(manifest)
    classifier, adversarial = original.classifier, original.classifier.adversarial
    if adversarial is not None and adversarial.steps > ONLINE_STEPS:
        adversarial = adversarial.model_copy(update={"steps": ONLINE_STEPS, "step_size": None})
    network = manifest.content.classifier  # the recipe may have taken it from another bundle
    if classifier.factory is not None:
        # Code of the user's, which is not asked for; the attacker has the recipe's own network.
        network = network.model_copy(
            update={"architecture": classifier.architecture, "config": classifier.config}
        )
    changes: dict[str, Any] = {
        "name": f"{original.name[:54]}-surrogate",
        "summary": f"A surrogate of {original.name}, for attacks without its weights.",
        "seed": seed,
        "data": original.data.model_copy(
            update={
                "limit": min(original.data.limit or IMAGES, IMAGES),
                "held_out": min(original.data.held_out, HELD_OUT_IMAGES),
            }
        ),
        "classifier": classifier.model_copy(
            update={
                "from_bundle": None,
                "factory": None,
                "weights": None,
                "architecture": network.architecture,
                "config": network.config,
                "epochs": min(classifier.epochs, CLASSIFIER_EPOCHS),
                "optimiser": OPTIMISER,
                "adversarial": adversarial,
            }
        ),
    }
    if original.denoiser.epochs:
        epochs = min(original.denoiser.epochs, DENOISER_EPOCHS)
        changes["denoiser"] = original.denoiser.model_copy(
            update={"epochs": epochs, "optimiser": OPTIMISER}
        )
    if original.adversaries is not None:
        attacks = [shortened(attack, STATIC_STEPS) for attack in original.adversaries.attacks]
        changes["adversaries"] = original.adversaries.model_copy(update={"attacks": attacks})
    for key in ("online", "joint"):
        made = getattr(original, key)
        if made is not None and made.adversarial.steps > ONLINE_STEPS:
            shorter = {"steps": ONLINE_STEPS, "step_size": None}
            learnt = made.adversarial.model_copy(update=shorter)
            changes[key] = made.model_copy(update={"adversarial": learnt})
    return original.model_copy(update=changes)


def _recipe_of(manifest: Manifest) -> Recipe:
    written = manifest.about.get("recipe")
    if written is None:
        raise SurrogateImpossible(
            f"{manifest.name} does not say by which recipe it was trained (manifest: about.recipe),"
            " so no surrogate can be; name another bundle for the same images as the surrogate"
        )
    try:
        return Recipe.model_validate(written)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SurrogateImpossible(
            f"the recipe in {manifest.name} (manifest: about.recipe) cannot be used: "
            f"{key}: {first['msg']}; name another bundle for the same images as the surrogate"
        ) from error
