"""Training samples made without the denoiser, and denoisers that learn from Gaussian noise."""

import pytest
import torch

from fend.bundles import load_bundle
from fend.datasets import ImageSet, load
from training.loop import StepContext
from training.recipe.files import load_recipe
from training.recipe.schema import Optimiser
from training.recipe.smaller import smoke
from training.stages.samples import NoisySamples, StaticSamples, with_noise


def test_the_noise_is_new_each_time_and_not_clipped() -> None:
    images = load("rendered-digits:train", None)
    samples = NoisySamples(0.5, images)
    draw = torch.Generator().manual_seed(0)
    indices = torch.arange(50)
    assert samples.count == len(images)
    (same, first), (_, second) = (samples.batch(indices, StepContext(0.5, draw)) for _ in range(2))
    assert torch.equal(same, indices)
    noise = first - images.pixels(indices)
    assert float(noise.std()) == pytest.approx(0.5, abs=0.01)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(first.min()) < -1
    assert not torch.equal(first, second)
    again = samples.batch(indices, StepContext(0.5, torch.Generator().manual_seed(0)))[1]
    assert torch.equal(again, first)


def test_the_run_exports_its_sigma_and_learns_to_remove_the_noise(run, tmp_path) -> None:
    recipe = smoke(load_recipe("mnist-smoothing"))
    optimiser = Optimiser(learning_rate=0.003)  # the smoke version hardly learns
    learning = recipe.denoiser.model_copy(update={"optimiser": optimiser, "batch_size": 16})
    recipe = recipe.model_copy(update={"denoiser": learning})
    manifest = run(recipe, tmp_path)
    folder = tmp_path / "models" / recipe.name
    assert manifest.content.smoothing.sigma == 0.5
    assert set(manifest.about["held_out"]) == {"noisy", "clean", "score"}
    card = (folder / "README.md").read_text()
    assert "with new Gaussian noise each time (standard deviation 0.5)" in card
    denoiser = load_bundle(folder).defence.denoiser
    last = torch.load(tmp_path / "runs" / recipe.name / "checkpoint.pt", weights_only=True)
    denoiser.load_state_dict(last["module"])  # accuracy chose an earlier epoch: all were right
    clean = load("rendered-digits:test", None).pixels(slice(0, 100))
    noisy = with_noise(clean, 0.5, torch.Generator().manual_seed(0))
    left = float((denoiser(noisy) - clean).square().mean())
    assert left < 0.8 * 0.5**2


def test_static_samples_are_every_variant_of_every_image_once() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 1, 28, 28), generator=generator, dtype=torch.uint8)
    images = ImageSet("noise", pixels, torch.arange(40) % 10, tuple("0123456789"))
    clean = images.pixels(slice(None))
    samples = StaticSamples({"clean": clean.half(), "negative": (1 - clean).half()})
    assert samples.count == 80
    which, pixels = samples.batch(torch.arange(80), StepContext(0, generator))
    assert sorted(which.tolist()) == sorted([*range(40), *range(40)])
    assert torch.allclose(pixels[:40], clean[which[:40]], atol=1e-3)
    assert torch.allclose(pixels[40:], 1 - clean[which[40:]], atol=1e-3)
