"""The whole offline line on rendered digits, as a user starts it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from fend.bundles import load_bundle
from fend.datasets import load, rendered_digits
from training.recipe.files import load_recipe, shipped_recipes
from training.recipe.schema import Recipe, RecipeError
from training.recipe.smaller import smoke
from training.stages.adversaries import make_adversaries

FEND = Path(sys.executable).parent / "fend"


def _train(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [str(FEND), "train", "mnist-static", "--smoke", "--threads", "1"]
    places = ["--models-dir", str(folder / "models"), "--runs-dir", str(folder / "runs")]
    return subprocess.Popen(
        [*command, *places, *options],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "FEND_DATA_DIR": str(folder)},
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    process = _train(folder)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return folder


def test_smoke_trains_exports_and_the_bundle_knows_digits(undisturbed) -> None:
    bundle = load_bundle(undisturbed / "models" / "mnist-static-smoke")
    digits = load("rendered-digits:test", None)
    answers = bundle.defence(digits.pixels(slice(None))).argmax(1)
    assert float((answers == digits.labels).float().mean()) > 0.8
    assert bundle.manifest.content.suspicion.threshold > 0
    card = (undisturbed / "models" / "mnist-static-smoke" / "README.md").read_text()
    assert card.splitlines()[2] == load_recipe("mnist-static").summary
    assert list((undisturbed / "runs").rglob("events.out.tfevents*"))


def test_a_killed_run_resumes_to_the_same_weights(undisturbed, tmp_path) -> None:
    process = _train(tmp_path)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/adversaries/*/chunk-00001.safetensors")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = _train(tmp_path, "--resume")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    for file in ("classifier.safetensors", "denoiser.safetensors"):
        ours = load_file(tmp_path / "models" / "mnist-static-smoke" / file)
        theirs = load_file(undisturbed / "models" / "mnist-static-smoke" / file)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), file


def test_adversaries_are_made_once(tmp_path, undisturbed) -> None:
    bundle = load_bundle(undisturbed / "models" / "mnist-static-smoke")
    recipe = smoke(load_recipe("mnist-static"))
    images = load("rendered-digits:test", None).subset(slice(0, 600))
    options = {
        "threat": recipe.adversaries.threat,
        "seed": 0,
        "cache": tmp_path,
        "console": Console(quiet=True),
    }
    fgsm = recipe.adversaries.attacks[0]
    first = make_adversaries(fgsm, bundle.defence.classifier, images, **options)
    assert first.shape == images.images.shape
    assert float((first.float() - images.pixels(slice(None))).abs().max()) <= 0.2 + 1e-3

    def must_not_run(*_: object) -> None:
        raise AssertionError("the classifier was asked again")

    bundle.defence.classifier.forward = must_not_run  # type: ignore[method-assign]
    assert torch.equal(make_adversaries(fgsm, bundle.defence.classifier, images, **options), first)


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory) -> str:
    """80 drawn digits as a data set."""
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    digits = rendered_digits.load("train", 80)
    names = list(digits.label_names)
    np.savez(path, images=digits.images[:, 0], labels=digits.labels, label_names=names)
    return f"npz:{path}"


def _tiny(recipe: str, data: str, *changes: str) -> Recipe:
    """The smoke version of a recipe on a few dozen images."""
    small = smoke(load_recipe(recipe, changes=changes))
    images = {"train": data, "test": data, "limit": 60, "held_out": 20}
    return small.model_copy(
        update={
            "data": small.data.model_copy(update=images),
            "classifier": small.classifier.model_copy(update={"epochs": 1}),
        }
    )


@pytest.mark.parametrize(
    "recipe",
    [name for name in shipped_recipes() if name != "mnist-static"],  # tried as a command above
)
def test_every_recipe_exports_a_bundle_that_answers(run, recipe, few_digits, tmp_path) -> None:
    small = _tiny(recipe, few_digits)
    manifest = run(small, tmp_path)
    bundle = load_bundle(tmp_path / "models" / small.name)
    spec = manifest.content.input
    images = torch.rand(3, spec.channels, spec.height_px, spec.width_px)
    answers = bundle.defence.answer(images)
    assert answers.logits.shape == (3, 10)
    assert answers.denoised.shape == images.shape
    assert Recipe.model_validate(manifest.about["recipe"]) == small
    card = (tmp_path / "models" / small.name / "README.md").read_text()
    assert small.summary in card
    if small.classifier.adversarial is not None:
        kind = small.classifier.adversarial.kind
        told = "trained together with the denoiser" if small.joint else "adversarial training"
        assert f"{told}: {kind}" in card
        assert manifest.about["classifier_held_out"].keys() >= {"accuracy", "white_box"}


def test_recipes_that_share_a_classifier_train_it_once(run, few_digits, tmp_path) -> None:
    first = run(_tiny("mnist-unsecured", few_digits), tmp_path)
    second = run(_tiny("mnist-noise-reduction", few_digits), tmp_path)
    assert first.content.classifier.sha256 == second.content.classifier.sha256
    assert len(list((tmp_path / "runs" / "classifiers").iterdir())) == 1


def test_a_run_of_another_recipe_is_not_resumed(run, few_digits, tmp_path) -> None:
    recipe = _tiny("mnist-pixel-mse", few_digits)
    first = run(recipe, tmp_path)
    assert run(recipe, tmp_path, resume=True).version == first.version
    reworded = recipe.model_copy(update={"summary": "Said in other words."})
    assert run(reworded, tmp_path, resume=True).version == first.version
    other = recipe.model_copy(update={"loss": recipe.loss.model_copy(update={"pixel_weight": 2})})
    with pytest.raises(RecipeError, match=r"different recipe \(loss differ\)"):
        run(other, tmp_path, resume=True)
    run(other, tmp_path)


@pytest.mark.parametrize(
    ("recipe", "change", "said"),
    [
        ("mnist-madry", "classifier.config={channels=3}", "paper-lenet does not take images of"),
        ("mnist-madry", "classifier.config={classes=7}", r"answers \(7,\) where \(10,\)"),
        ("mnist-hgd", "denoiser.config={channels=3}", "hgd-unet does not take images of"),
        ("mnist-unsecured", "denoiser.architecture=residual-unet", "residual-unet learns, so"),
        ("mnist-hgd", "denoiser.architecture=identity", "identity learns nothing"),
    ],
)
def test_networks_that_do_not_fit_are_named_before_anything_is_trained(
    run, few_digits, tmp_path, recipe, change, said
):
    asked = load_recipe(recipe, changes=[change])
    images = {"train": few_digits, "test": few_digits, "limit": 60, "held_out": 20}
    asked = asked.model_copy(update={"data": asked.data.model_copy(update=images)})
    with pytest.raises(RecipeError, match=said):
        run(asked, tmp_path)
    assert not (tmp_path / "runs").exists()
