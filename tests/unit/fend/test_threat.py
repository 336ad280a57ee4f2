import pytest
import torch

from fend.threat import ThreatModel, sample_seeds


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(16, 3, 7, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.3])
def test_projection_ends_in_the_ball_and_the_box(norm, epsilon, images) -> None:
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    far = images + 5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    projected = threat.project(images, far)
    assert float(threat.measure(images, projected).max()) <= epsilon + 1e-6
    assert float(projected.min()) >= 0
    assert float(projected.max()) <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_leaves_what_is_allowed(norm, images) -> None:
    threat = ThreatModel(norm=norm, epsilon=0.4)
    near = (images + 0.001).clamp(0, 1)
    assert torch.allclose(threat.project(images, near), near, atol=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_start_of_an_image_does_not_depend_on_its_batch(norm, images) -> None:
    threat = ThreatModel(norm=norm, epsilon=0.1)
    seeds = sample_seeds(3, range(16), "start")
    together = threat.random_start(images, seeds)
    alone = torch.cat([threat.random_start(images[i : i + 1], [seeds[i]]) for i in range(16)])
    assert torch.equal(together, alone)


def test_starts_fill_the_linf_ball_up_to_its_surface(images) -> None:
    threat = ThreatModel(epsilon=0.1)
    grey = torch.full_like(images, 0.5)
    delta = threat.random_start(grey, sample_seeds(0, range(16), "start")) - 0.5
    assert float(delta.abs().max()) <= 0.1 + 1e-6
    assert float(delta.abs().max()) > 0.099
    assert abs(float(delta.mean())) < 0.01


def test_seeds_differ_by_seed_stream_and_sample() -> None:
    seeds = [
        *sample_seeds(0, range(50), "a"),
        *sample_seeds(0, range(50), "b"),
        *sample_seeds(1, range(50), "a"),
    ]
    assert len(set(seeds)) == 150
    assert sample_seeds(0, [7], "a") == sample_seeds(0, range(50), "a")[7:8]


def test_l2_steps_have_the_asked_length(images) -> None:
    threat = ThreatModel(norm="l2", epsilon=1.0)
    stepped = threat.step(images, 1e-3 * torch.randn_like(images), 0.25)
    assert torch.allclose(threat.measure(images, stepped), torch.full((16,), 0.25), atol=1e-5)
