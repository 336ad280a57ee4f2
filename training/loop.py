"""The one training loop: epochs, checkpoints, resume, progress, TensorBoard."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fend.errors import Invalid, extra_missing
from fend.files import replacing
from training.recipe.schema import Optimiser

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Indices = Tensor
"""Indices of the training images of a step: int64 (batch,)."""


@dataclass(frozen=True)
class StepContext:
    """Progress and random numbers of the current step."""

    progress: float
    """Fraction of the training that is done: 0 at the first step, near 1 at the last."""
    generator: torch.Generator
    """Source of every random draw of the step, on the CPU."""


@dataclass(frozen=True)
class Fit:
    """One module to train."""

    module: nn.Module
    optimiser: Optimiser
    epochs: int
    batch_size: int
    images: int
    """Number of training images; each is used once an epoch."""
    seed: int
    loss: Callable[[Indices, StepContext], dict[str, Tensor]]
    """Terms of the loss on a batch; their sum is minimised."""
    validate: Callable[[nn.Module], dict[str, float]]
    """Figures of the module, or of its averaged copy, on held-out images, by name; `score` selects
    the best epoch."""
    pictures: Callable[[nn.Module], Tensor] | None = None
    """An image grid (C,H,W) in [0, 1] for TensorBoard, made with the same module."""
    average: float | None = None
    """Decay of the moving average of the weights; the average is then validated and kept."""
    precision: torch.dtype = torch.float32
    """Precision of the convolutions in `loss`; `validate` is always in float32."""


@dataclass(frozen=True)
class Fitted:
    """Outcome of a training."""

    figures: dict[str, float]
    """Figures of the best epoch, on held-out images."""
    epochs: int
    """Finished epochs; fewer than planned where the training was cut short."""


def fit(job: Fit, folder: Path, *, resume: bool, console: Console, cut: bool = False) -> Fitted:
    """Train `job.module` in place and leave its best weights in it.

    `folder` holds `checkpoint.pt`, written atomically after each epoch so that a stopped run can
    resume, and TensorBoard's files. The order of images and every random draw of an epoch depend
    on the seed and the epoch alone, so a resumed run equals an uninterrupted one. With `cut`
    nothing is trained: the best checkpoint so far is the outcome.

    Raises:
        Invalid: `cut`, and there is no checkpoint (`nothing_to_cut`).
        Unavailable: TensorBoard is not installed (`dependency_missing`).
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise extra_missing("training writes its figures with TensorBoard", "train") from error
    folder.mkdir(parents=True, exist_ok=True)
    optimiser = _build_optimiser(job)
    scheduler = _build_schedule(job, optimiser)
    average = None if job.average is None else averaged_copy(job.module, job.average)
    live = _Live(job.module, optimiser, scheduler, average)
    kept = job.module if average is None else average.module
    state = _State.load(folder, live) if resume or cut else _State.fresh()
    if cut and not state.best_weights:
        raise Invalid(f"there is no finished epoch in {folder}; train first", code="nothing_to_cut")
    last = state.epoch if cut else job.epochs
    with SummaryWriter(str(folder / "tensorboard")) as board, _bars(console) as bars:
        epochs_bar = bars.add_task("epochs", total=job.epochs, completed=state.epoch)
        for epoch in range(state.epoch, last):
            batch_bar = bars.add_task(f"epoch {epoch + 1}", total=_steps(job))
            means = _train_epoch(job, live, epoch, lambda: bars.advance(batch_bar))  # noqa: B023
            bars.remove_task(batch_bar)
            figures = job.validate(kept)
            state = state.after(epoch, figures, kept)
            _report(board, console, epoch, means, figures)
            if job.pictures is not None and (epoch % 5 == 0 or epoch + 1 == job.epochs):
                board.add_image("clean | adversarial | denoised", job.pictures(kept), epoch)
            state.save(folder, live)
            bars.advance(epochs_bar)
    job.module.load_state_dict(state.best_weights)
    return Fitted(state.best_figures, state.epoch)


def averaged_copy(module: nn.Module, decay: float) -> AveragedModel:
    """A copy of `module` in eval mode whose weights are an exponential moving average of its: a
    flatter, more robust minimum than the last step's (Izmailov et al. 2018; for adversarial
    training: Gowal et al. 2020).

    `decay` is the share of the old average that a step keeps; it starts lower, so that the first
    steps are soon forgotten. The copy starts from the present weights of `module`.
    """

    @torch.no_grad()
    def follow(averages: Any, currents: Any, _steps: Any) -> None:
        if not averages[0].is_floating_point():  # such as counts of batches
            torch._foreach_copy_(averages, currents)
            return
        # On the CPU: reading the argument would synchronise the device.
        steps = int(copy.n_averaged)
        torch._foreach_lerp_(averages, currents, 1 - min(decay, steps / (steps + 10)))

    copy = AveragedModel(module, multi_avg_fn=follow, use_buffers=True)
    copy.n_averaged += 1  # else torch starts from the weights after the first step
    return copy.eval()


@dataclass(frozen=True)
class _Live:
    """Everything that changes with each step."""

    module: nn.Module
    optimiser: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    average: AveragedModel | None

    def step(self, loss: Tensor) -> None:
        """One step down `loss`."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.module)


def _train_epoch(
    job: Fit, live: _Live, epoch: int, advance: Callable[[], object]
) -> dict[str, float]:
    """One pass over the images; returns the mean of each term of the loss."""
    generator = torch.Generator().manual_seed(job.seed * 100_003 + epoch)
    sums: dict[str, Tensor] = {}
    job.module.train()
    device = next(job.module.parameters()).device.type
    for step, indices in enumerate(_batches(job, generator)):
        progress = (epoch + step / _steps(job)) / job.epochs
        with torch.autocast(device, job.precision, enabled=job.precision != torch.float32):
            terms = job.loss(indices, StepContext(progress, generator))
        live.step(torch.stack(list(terms.values())).sum())
        for name, value in terms.items():
            # Kept as a tensor until the epoch ends: reading it would synchronise the device.
            sums[name] = sums.get(name, torch.zeros(())) + value.detach() * len(indices)
        advance()
    job.module.eval()
    return {name: float(value) / job.images for name, value in sums.items()}


def _batches(job: Fit, generator: torch.Generator) -> Iterator[Indices]:
    order = torch.randperm(job.images, generator=generator)
    yield from torch.split(order, job.batch_size)


def _steps(job: Fit) -> int:
    return -(-job.images // job.batch_size)


def _build_optimiser(job: Fit) -> torch.optim.Optimizer:
    options = job.optimiser
    parameters = job.module.parameters()
    if options.kind == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
    kind = torch.optim.Adam if options.kind == "adam" else torch.optim.AdamW
    return kind(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)


def _build_schedule(
    job: Fit, optimiser: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    if job.optimiser.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0, total_iters=0)
    steps = job.epochs * _steps(job)
    if job.optimiser.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser, job.optimiser.learning_rate, steps, pct_start=0.2, cycle_momentum=False
        )
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)


@dataclass(frozen=True)
class _State:
    """Progress of a run: finished epochs and the best weights so far."""

    epoch: int
    best_figures: dict[str, float]
    best_weights: dict[str, Tensor]

    @classmethod
    def fresh(cls) -> "_State":
        return cls(0, {}, {})

    @classmethod
    def load(cls, folder: Path, live: _Live) -> "_State":
        path = folder / "checkpoint.pt"
        if not path.is_file():
            return cls.fresh()
        # weights_only: tensors and plain containers, never arbitrary pickled objects.
        saved: dict[str, Any] = torch.load(path, weights_only=True)
        live.module.load_state_dict(saved["module"])
        live.optimiser.load_state_dict(saved["optimiser"])
        live.scheduler.load_state_dict(saved["scheduler"])
        if live.average is not None:
            live.average.load_state_dict(saved["average"])
        return cls(saved["epoch"], saved["best_figures"], saved["best_weights"])

    def after(self, epoch: int, figures: dict[str, float], module: nn.Module) -> "_State":
        if self.best_figures and figures["score"] <= self.best_figures["score"]:
            return _State(epoch + 1, self.best_figures, self.best_weights)
        weights = {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}
        return _State(epoch + 1, figures, weights)

    def save(self, folder: Path, live: _Live) -> None:
        state = {
            "epoch": self.epoch,
            "best_figures": self.best_figures,
            "best_weights": self.best_weights,
            "module": live.module.state_dict(),
            "optimiser": live.optimiser.state_dict(),
            "scheduler": live.scheduler.state_dict(),
            "average": None if live.average is None else live.average.state_dict(),
        }
        with replacing(folder / "checkpoint.pt") as unfinished:
            torch.save(state, unfinished)


def _report(
    board: "SummaryWriter",
    console: Console,
    epoch: int,
    means: dict[str, float],
    figures: dict[str, float],
) -> None:
    for name, value in means.items():
        board.add_scalar(f"loss/{name}", value, epoch)
    for name, value in figures.items():
        board.add_scalar(f"held-out/{name}", value, epoch)
    board.flush()
    losses = "  ".join(f"{name} {value:.5f}" for name, value in means.items())
    scores = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
    console.print(f"epoch {epoch + 1}: {losses} | held out: {scores}", highlight=False)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
