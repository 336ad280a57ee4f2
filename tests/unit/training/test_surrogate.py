"""The attacker's own model, made from nothing but a bundle."""

import json
from pathlib import Path

import pytest
import small_bundles
import torch

from fend.bundles import load_bundle, read_manifest
from fend.datasets import MissingDatasetError
from fend.errors import Invalid
from training.recipe import smaller
from training.recipe.files import load_recipe
from training.recipe.smaller import smoke, surrogate_recipe
from training.surrogate import train_surrogate

SHIPPED = Path(__file__).parents[3] / "models"


@pytest.fixture(scope="module")
def defence(run, tmp_path_factory) -> Path:
    """A bundle by `mnist-pixel-mse`, from a few images."""
    folder = tmp_path_factory.mktemp("defence")
    recipe = smoke(load_recipe("mnist-pixel-mse"))
    data = recipe.data.model_copy(update={"limit": 100, "held_out": 20})
    run(recipe.model_copy(update={"data": data}), folder)
    return folder / "models" / recipe.name


def _rewritten(bundle: Path, place: Path, about: dict) -> Path:
    """The bundle with something else said about it."""
    place.mkdir()
    for file in bundle.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["about"] = about
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


def test_a_surrogate_is_another_model_for_the_same_images(defence, tmp_path) -> None:
    out = tmp_path / "made" / "surrogate"
    train_surrogate(defence, out, data_dir=None, seed=1_000_000)
    theirs, ours = read_manifest(out), read_manifest(defence)
    assert theirs.about["surrogate_of"] == ours.version
    assert theirs.content.input == ours.content.input
    assert theirs.content.labels == ours.content.labels
    for role in ("denoiser", "classifier"):
        mine, other = getattr(ours.content, role), getattr(theirs.content, role)
        assert mine.architecture == other.architecture
        assert mine.sha256 != other.sha256
    assert load_bundle(out).defence(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert [path.name for path in out.parent.iterdir()] == ["surrogate"]  # nothing left over


@pytest.mark.parametrize("name", ["mnist", "mnist-paper", "signs"])
def test_the_shipped_bundles_say_enough_for_a_surrogate_on_a_small_budget(name) -> None:
    manifest = read_manifest(SHIPPED / name)
    recipe = surrogate_recipe(manifest, 5)
    assert recipe.seed == 5
    assert recipe.data.limit == smaller.SURROGATE_IMAGES
    assert recipe.classifier.epochs <= smaller.SURROGATE_CLASSIFIER_EPOCHS
    assert recipe.denoiser.epochs <= smaller.SURROGATE_DENOISER_EPOCHS
    assert recipe.denoiser.architecture == manifest.content.denoiser.architecture


def test_a_classifier_taken_from_a_bundle_is_trained_anew(defence, tmp_path) -> None:
    about = dict(read_manifest(defence).about)
    recipe = dict(about["recipe"])
    recipe["classifier"] = {"from_bundle": "somewhere/else", "architecture": "resnet-18"}
    place = _rewritten(defence, tmp_path / "copy", about | {"recipe": recipe})
    classifier = surrogate_recipe(read_manifest(place), 5).classifier
    assert classifier.from_bundle is None
    assert classifier.architecture == "paper-lenet"


def test_what_is_missing_is_named(defence, tmp_path) -> None:
    about = dict(read_manifest(defence).about)
    out = tmp_path / "out"
    for number, (changed, said) in enumerate(
        [
            ({}, "does not say by which recipe"),
            ({"recipe": {**about["recipe"], "loss": {"network": "vgg61"}}}, "loss.network"),
        ]
    ):
        place = _rewritten(defence, tmp_path / str(number), changed)
        with pytest.raises(Invalid, match=said):
            train_surrogate(place, out, data_dir=None, seed=1)
    data = {**about["recipe"]["data"], "train": "mnist:train", "test": "mnist:test"}
    place = _rewritten(defence, tmp_path / "mnist", {"recipe": {**about["recipe"], "data": data}})
    with pytest.raises(MissingDatasetError, match="FEND_DATA_DIR"):
        train_surrogate(place, out, data_dir=None, seed=1)
    assert not out.exists()


def test_a_bundle_that_training_did_not_make_has_no_recipe(tmp_path) -> None:
    small_bundles.save(tmp_path / "own", about={"trained_on": "my images"})
    with pytest.raises(Invalid, match="own does not say by which recipe"):
        surrogate_recipe(read_manifest(tmp_path / "own"), 1)
