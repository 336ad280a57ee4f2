"""The training loop: what is kept of a run, and what a stopped one goes on with."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from fend.errors import Invalid
from training.loop import Fit, Fitted, StepContext, averaged_copy, fit
from training.recipe.schema import Optimiser

INPUTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def job(epochs: int, average: float | None = None, stop_after: int | None = None) -> Fit:
    torch.manual_seed(0)
    module = nn.Linear(3, 1)
    validated = 0

    def loss(indices: Tensor, step: StepContext) -> dict[str, Tensor]:
        noise = torch.randn(len(indices), generator=step.generator)
        errors = module(INPUTS[indices])[:, 0] - INPUTS[indices].sum(1) + noise
        return {"error": errors.square().mean()}

    def validate(module: nn.Module) -> dict[str, float]:
        nonlocal validated
        validated += 1
        if stop_after is not None and validated > stop_after:
            raise KeyboardInterrupt
        with torch.no_grad():
            return {"score": -float((module(INPUTS)[:, 0] - INPUTS.sum(1)).square().mean())}

    return Fit(
        module, Optimiser(kind="sgd", learning_rate=0.1), epochs, 4, 40, 0, loss, validate,
        average=average,
    )  # fmt: skip


def run(job: Fit, folder: Path, *, resume: bool = False, cut: bool = False) -> Fitted:
    return fit(job, folder, resume=resume, cut=cut, console=Console(quiet=True))


def test_the_average_is_calmer_than_the_last_step(tmp_path: Path) -> None:
    last, averaged = job(60), job(60, 0.99)
    run(last, tmp_path / "last")
    run(averaged, tmp_path / "averaged")
    wanted = torch.ones(1, 3)
    distances = [(one.module.weight - wanted).norm() for one in (averaged, last)]  # type: ignore[operator]
    assert distances[0] < distances[1] / 2


@pytest.mark.parametrize("average", [None, 0.9])
def test_a_stopped_training_resumes_to_what_an_undisturbed_one_keeps(tmp_path, average):
    undisturbed, resumed = job(4, average), job(4, average)
    expected = run(undisturbed, tmp_path / "undisturbed")
    with suppress(KeyboardInterrupt):
        run(job(4, average, stop_after=2), tmp_path / "stopped")
    assert run(resumed, tmp_path / "stopped", resume=True) == expected
    for name, value in undisturbed.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], value)


def test_a_training_can_be_cut_short_after_its_first_epoch(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no finished epoch"):
        run(job(6), tmp_path, cut=True)
    trained, cut = job(2), job(6)
    run(trained, tmp_path)
    assert run(cut, tmp_path, cut=True).epochs == 2
    assert torch.equal(cut.module.weight, trained.module.weight)  # type: ignore[arg-type]


def test_the_average_forgets_the_first_steps_sooner_and_copies_counts() -> None:
    module = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    average = averaged_copy(module, 0.5)
    expected = module[0].weight.detach().clone()
    for step in range(1, 20):
        with torch.no_grad():
            module[0].weight.add_(1.0)
        module(torch.rand(4, 2))
        average.update_parameters(module)
        expected = expected.lerp(module[0].weight, 1 - min(0.5, step / (step + 10)))
        averaged = average.module.state_dict()
        assert torch.equal(averaged["0.weight"], expected)
        assert averaged["1.num_batches_tracked"] == step
