import pytest
import torch
from refusals import code

from fend.errors import Invalid
from fend.models import build, parameter_count
from fend.pipeline import Defence, frozen, suspicion


@pytest.mark.parametrize(
    ("architecture", "parameters"), [("paper-autoencoder", 5_729), ("paper-lenet", 431_080)]
)
def test_the_papers_networks_have_the_papers_size(architecture, parameters) -> None:
    assert parameter_count(build(architecture, {})) == parameters


def test_the_papers_autoencoder_goes_through_the_papers_shapes() -> None:
    sizes = []
    current = torch.rand(2, 1, 28, 28)
    autoencoder = build("paper-autoencoder", {})
    for layer in [*autoencoder.encoder, *autoencoder.decoder]:
        current = layer(current)
        sizes.append(tuple(current.shape[1:]))
    named = [size for before, size in zip([None, *sizes], sizes, strict=False) if size != before]
    assert named == [
        (16, 10, 10), (16, 5, 5), (8, 3, 3), (8, 2, 2), (16, 5, 5), (8, 15, 15), (1, 28, 28),
    ]  # fmt: skip
    output = frozen(autoencoder)(torch.rand(2, 1, 28, 28))
    assert 0 <= float(output.min()) <= float(output.max()) <= 1


@pytest.mark.parametrize(
    "config",
    [{"width": 8, "fold": 2}, {"width": 4, "scales": 3}, {"channels": 3, "width": 4, "fold": 2}],
)
@pytest.mark.parametrize("size", [(28, 28), (29, 31), (5, 40)])
def test_a_fresh_unet_changes_nothing_and_takes_any_size(config, size) -> None:
    torch.manual_seed(0)
    unet = build("residual-unet", config)
    images = torch.rand(2, config.get("channels", 1), *size)
    assert torch.equal(unet(images), images)
    torch.nn.init.normal_(unet.last.weight)
    assert unet(images).shape == images.shape
    assert not torch.equal(unet(images), images)


def test_an_unknown_architecture_or_option_is_named() -> None:
    with pytest.raises(Invalid, match="residual-unet", check=code("architecture_unknown")):
        build("resnet-9000", {})
    with pytest.raises(Invalid, match="wdith", check=code("architecture_unknown")):
        build("residual-unet", {"wdith": 4})


def test_both_answers_come_with_and_without_the_denoiser() -> None:
    torch.manual_seed(0)
    defence = Defence(build("paper-autoencoder", {}), build("paper-lenet", {}))
    frozen(defence)
    images = torch.rand(5, 1, 28, 28)
    answers = defence.answer(images)
    assert torch.allclose(answers.logits, defence(images), atol=1e-6)
    assert torch.allclose(answers.undefended_logits, defence.classifier(images), atol=1e-6)


def test_the_gradient_goes_through_the_denoiser() -> None:
    """ART #485, foolbox #704: a gradient that stops at, or ignores, the preprocessing."""
    torch.manual_seed(0)
    defence = Defence(build("paper-autoencoder", {}), build("paper-lenet", {})).double()
    frozen(defence)
    images = torch.rand(1, 1, 28, 28, dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(defence(images)[0, 3], images)
    step = 1e-6
    for row, column in [(14, 14), (5, 9), (20, 3)]:
        shifted = images.detach().clone()
        shifted[0, 0, row, column] += step
        difference = (defence(shifted)[0, 3] - defence(images.detach())[0, 3]) / step
        assert float(gradient[0, 0, row, column]) == pytest.approx(float(difference), abs=1e-6)


def test_suspicion_is_zero_for_equal_and_one_for_opposite_answers() -> None:
    sure_a = torch.tensor([[50.0, 0.0, 0.0]])
    sure_b = torch.tensor([[0.0, 50.0, 0.0]])
    assert float(suspicion(sure_a, sure_a)) == pytest.approx(0, abs=1e-6)
    assert float(suspicion(sure_a, sure_b)) == pytest.approx(1, abs=1e-5)
    assert float(suspicion(sure_a, sure_b)) == pytest.approx(float(suspicion(sure_b, sure_a)))
    between = float(suspicion(torch.tensor([[1.0, 0.0, 0.0]]), torch.zeros(1, 3)))
    assert 0 < between < 0.2
