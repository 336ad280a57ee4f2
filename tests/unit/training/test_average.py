"""What is kept of a training with an average is the average, also after a stop."""

from contextlib import suppress
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from training.loop import Fit, StepContext, averaged_copy, fit
from training.recipe.schema import Optimiser

INPUTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
QUIET = Console(quiet=True)


def job(epochs: int, average: float | None, stop_after: int | None = None) -> Fit:
    torch.manual_seed(0)
    module = nn.Linear(3, 1)
    validated = 0

    def loss(indices: Tensor, step: StepContext) -> dict[str, Tensor]:
        noise = torch.randn(len(indices), generator=step.generator)
        return {
            "error": (module(INPUTS[indices])[:, 0] - INPUTS[indices].sum(1) + noise)
            .square()
            .mean()
        }

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


def test_the_average_is_calmer_than_the_last_step(tmp_path: Path) -> None:
    last, averaged = job(60, None), job(60, 0.99)
    fit(last, tmp_path / "last", resume=False, console=QUIET)
    fit(averaged, tmp_path / "averaged", resume=False, console=QUIET)
    wanted = torch.ones(1, 3)
    distances = [(one.module.weight - wanted).norm() for one in (averaged, last)]  # type: ignore[operator]
    assert distances[0] < distances[1] / 2


def test_a_stopped_training_resumes_to_the_same_average(tmp_path: Path) -> None:
    undisturbed = job(4, 0.9)
    fit(undisturbed, tmp_path / "undisturbed", resume=False, console=QUIET)
    with suppress(KeyboardInterrupt):
        fit(job(4, 0.9, stop_after=2), tmp_path / "stopped", resume=False, console=QUIET)
    resumed = job(4, 0.9)
    fit(resumed, tmp_path / "stopped", resume=True, console=QUIET)
    for name, value in undisturbed.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], value)


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
