"""Denoisers that learn from Gaussian noise, and are certified with it."""

import pytest
import torch
from rich.console import Console

from fend.bundles import load_bundle
from fend.datasets import load
from training.line import run_recipe
from training.loop import Moment
from training.recipe import NoiseSection, Optimiser, RecipeError
from training.recipe_files import load_recipe
from training.shown import NoisyShown, with_noise
from training.smoke import smoke


def test_the_noise_is_new_each_time_and_not_clipped() -> None:
    images = load("rendered-digits:train", None)
    shown = NoisyShown(NoiseSection(sigma=0.5), images)
    draw = torch.Generator().manual_seed(0)
    indices = torch.arange(50)
    assert shown.samples == len(images)
    (same, first), (_, second) = (shown.batch(indices, Moment(0.5, draw)) for _ in range(2))
    assert torch.equal(same, indices)
    noise = first - images.pixels(indices)
    assert float(noise.std()) == pytest.approx(0.5, abs=0.01)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(first.min()) < -1
    assert not torch.equal(first, second)
    again = shown.batch(indices, Moment(0.5, torch.Generator().manual_seed(0)))[1]
    assert torch.equal(again, first)


def test_the_run_exports_its_sigma_and_learns_to_remove_the_noise(tmp_path) -> None:
    recipe = smoke(load_recipe("mnist-smoothing"))
    optimiser = Optimiser(learning_rate=0.003)  # the smoke version hardly learns
    learning = recipe.denoiser.model_copy(update={"optimiser": optimiser, "batch_size": 16})
    recipe = recipe.model_copy(update={"denoiser": learning})
    manifest = run_recipe(
        recipe,
        data_dir=None,
        bundle_dir=tmp_path / "bundle",
        runs_dir=tmp_path / "runs",
        resume=False,
        device=torch.device("cpu"),
        console=Console(quiet=True),
    )
    assert manifest.content.smoothing is not None
    assert manifest.content.smoothing.sigma == 0.5
    assert set(manifest.about["held_out"]) == {"noisy", "clean", "score"}
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "with new Gaussian noise each time (standard deviation 0.5)" in card
    denoiser = load_bundle(tmp_path / "bundle").defence.denoiser
    last = torch.load(tmp_path / "runs" / recipe.name / "checkpoint.pt", weights_only=True)
    denoiser.load_state_dict(last["module"])  # accuracy chose an earlier epoch: all were right
    clean = load("rendered-digits:test", None).pixels(slice(0, 100))
    noisy = with_noise(clean, 0.5, torch.Generator().manual_seed(0))
    left = float((denoiser(noisy) - clean).square().mean())
    assert left < 0.8 * 0.5**2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("noise.sigma=0", "noise.sigma"),
        ("denoiser.epochs=0", "nothing would use these sections: noise, loss"),
        ('adversaries={threat={epsilon=0.1}, attacks=[{name="fgsm"}]}', "noise: makes all"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, told) -> None:
    with pytest.raises(RecipeError, match=told):
        load_recipe("mnist-smoothing", changes=[change])
