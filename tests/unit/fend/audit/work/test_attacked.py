"""The attacked model: exact gradients, BPDA, EOT, features; and the rule for random answers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fend.attacks import PGD, Gradient
from fend.audit.plan import PlannedLine, line_at
from fend.audit.work.attacked import REPEAT_TOLERANCE, AttackedModel, attacked_model, variation
from fend.audit.work.judge import judge
from fend.errors import FendError, Invalid
from fend.models import build
from fend.models.architectures.controls import RandomResize
from fend.pipeline import Defence, frozen
from fend.threat import Knowledge


def code(name: str) -> Callable[[FendError], bool]:
    return lambda error: error.code == name


def white_box(**gradient: object) -> PlannedLine:
    return line_at(PGD(gradient=Gradient.model_validate(gradient)), Knowledge.WHITE_BOX)


EXACT, PAST = white_box(), white_box(denoiser="identity")


class Staircase(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images * 8).round() / 8


def small(seed: int = 0) -> nn.Sequential:
    """Smooth, so that finite differences can be trusted."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, 3, padding=1))


def linear(pixels: int = 16) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 3))


def gradient(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)
    return found


def test_the_gradient_goes_through_every_stacked_denoiser() -> None:
    """ART #485: the gradient of each stage was taken at the first stage's input."""
    stacked = Defence(nn.Sequential(small(1), small(2)), linear()).double()
    model = attacked_model(frozen(stacked), None, EXACT)  # type: ignore[arg-type]
    images = torch.rand(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, (images,))


def test_bpda_answers_exactly_as_the_pipeline_and_differentiates_past_the_denoiser() -> None:
    defence = Defence(Staircase(), linear())
    model = attacked_model(defence, None, PAST)
    images = torch.rand(5, 1, 4, 4)
    assert torch.equal(model(images), defence(images))
    assert torch.equal(gradient(model, images), gradient(defence.classifier, images))
    assert not gradient(attacked_model(defence, None, EXACT), images).any()


def test_eot_is_the_mean_of_fresh_draws() -> None:
    defence = Defence(RandomResize(0.5), linear())
    images = torch.rand(3, 1, 4, 4)
    torch.manual_seed(7)
    averaged = gradient(attacked_model(defence, None, white_box(samples=6)), images)
    torch.manual_seed(7)
    draws = torch.stack([gradient(defence, images) for _ in range(6)])
    assert torch.allclose(averaged, draws.mean(0), atol=1e-6)
    assert not torch.allclose(averaged, draws[0], atol=1e-3)


@pytest.mark.parametrize("samples", [1, 3])
def test_features_are_what_the_last_layer_decides_by(samples: int) -> None:
    torch.manual_seed(0)
    classifier = frozen(build("paper-lenet", {}))
    model = AttackedModel(Defence(small(), classifier), classifier, samples)
    images = torch.rand(4, 1, 28, 28)
    features = model.features(images)
    assert features.shape == (4, 500)
    last = classifier.head[-1]  # type: ignore[index]
    assert torch.allclose(last(features), model(images), atol=1e-5)
    leaf = images.clone().requires_grad_(True)
    (moved,) = torch.autograd.grad(model.features(leaf).square().sum(), leaf)
    assert moved.any(), "differentiable, through the denoiser"
    assert not any(layer._forward_pre_hooks for layer in classifier.modules())


def test_features_do_not_depend_on_how_a_classifier_is_written() -> None:
    class Backwards(nn.Module):
        """Its last layer is registered first."""

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Conv2d(2, 3, 4)
            self.first = nn.Conv2d(1, 2, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(self.first(images)).flatten(1)

    classifier = Backwards()
    images = torch.rand(2, 1, 4, 4)
    features = AttackedModel(classifier, classifier).features(images)
    assert torch.equal(features, classifier.first(images).flatten(1))
    empty = nn.Flatten()
    with pytest.raises(Invalid, match="feature_distance", check=code("attack_invalid")):
        AttackedModel(empty, empty).features(images)


class Wavering(nn.Module):
    """Another class at each pass; what it says first, second, ... is given."""

    def __init__(self, classes: list[int]) -> None:
        super().__init__()
        self.classes = classes
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 3)
        logits[:, self.classes[self.passes]] = 5.0
        self.passes += 1
        return logits


@pytest.mark.parametrize(
    ("draws", "answer"), [([0, 1, 2, 1, 0], 0), ([1, 0, 0, 2, 0], 0), ([2, 1, 1, 0, 2], 2)]
)
def test_the_majority_of_five_fresh_passes_decides_random_answers(draws, answer):
    """auto-attack #56, DiffPure #3, #5: one lucky pass of a random defence taken for success."""
    random = Defence(nn.Identity(), Wavering(draws))
    [judged] = judge(random, torch.rand(1, 1, 4, 4), randomised=True)
    assert judged.defended == answer
    assert judged.confidence == pytest.approx(torch.tensor([5.0, 0, 0]).softmax(0)[0].item())


def test_a_steady_pipeline_is_asked_once() -> None:
    once = Wavering([1])
    [judged] = judge(Defence(nn.Identity(), once), torch.rand(1, 1, 4, 4), randomised=False)
    assert (judged.defended, once.passes) == (1, 1)


def test_only_random_answers_vary() -> None:
    images = torch.rand(6, 1, 4, 4)
    assert not variation(Defence(small(), linear()), images).any()
    assert (variation(Defence(RandomResize(0.5), linear()), images) > REPEAT_TOLERANCE).all()
    broken = nn.Sequential(linear(), nn.Threshold(10.0, float("nan")))
    assert not variation(broken, images).any(), "NaN that stays NaN is not random"
