"""The one training loop: epochs, checkpoints, resume, progress, TensorBoard."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from torch.utils.tensorboard import SummaryWriter

from fend.errors import FendError
from training.average import Average
from training.recipe import Optimiser


class NothingToCut(FendError):
    """A training can be cut short only after its first epoch."""

    code = "nothing_to_cut"


Indices = Tensor
"""int64 (batch,): which training images a step uses."""


@dataclass(frozen=True)
class Moment:
    """Where in the training a step is."""

    progress: float
    """0 at the first step, near 1 at the last."""
    generator: torch.Generator
    """Every random draw of a step comes from here."""


@dataclass(frozen=True)
class Fit:
    """One module to train."""

    module: nn.Module
    optimiser: Optimiser
    epochs: int
    batch_size: int
    images: int
    """How many training images there are; each is used once an epoch."""
    seed: int
    loss: Callable[[Indices, Moment], dict[str, Tensor]]
    """The terms of the loss on a batch; their sum is minimised."""
    validate: Callable[[], dict[str, float]]
    """Figures on held-out images, by name; `score` is the one that selects the best epoch."""
    pictures: Callable[[], Tensor] | None = None
    """An image grid (C,H,W) in [0, 1] for TensorBoard."""
    average: float | None = None
    """Decay of the moving average of the weights, which is then what is validated and kept."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    figures: dict[str, float]
    """Of the best epoch, on held-out images."""
    epochs: int
    """How many were finished; fewer than planned where the training was cut short."""


def fit(job: Fit, folder: Path, *, resume: bool, console: Console, cut: bool = False) -> Outcome:
    """Train `job.module` in place and leave its best weights in it.

    Everything is kept in `folder`: `checkpoint.pt` after each epoch (written whole or not at all),
    so that a stopped run resumes; TensorBoard's files beside it. The order of images and every
    random draw of an epoch depend on the seed and the epoch alone, so a resumed run equals an
    undisturbed one. With `cut` nothing is trained: the best checkpoint so far is the outcome.

    Raises:
        NothingToCut: `cut`, and there is no checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimiser = _build_optimiser(job)
    scheduler = _build_schedule(job, optimiser)
    average = None if job.average is None else Average(job.module, job.average)
    live = _Live(job.module, optimiser, scheduler, average)
    state = _State.load(folder, live) if resume or cut else _State.fresh()
    if cut and not state.best_weights:
        raise NothingToCut(f"there is no finished epoch in {folder}; train first")
    last = state.epoch if cut else job.epochs
    with SummaryWriter(str(folder / "tensorboard")) as board, _bars(console) as bars:
        epochs_bar = bars.add_task("epochs", total=job.epochs, completed=state.epoch)
        for epoch in range(state.epoch, last):
            batch_bar = bars.add_task(f"epoch {epoch + 1}", total=_steps(job))
            means = _train_epoch(job, live, epoch, lambda: bars.advance(batch_bar))  # noqa: B023
            bars.remove_task(batch_bar)
            with live.averaged():
                figures = job.validate()
                state = state.after(epoch, figures, job.module)
            _report(board, console, epoch, means, figures)
            if job.pictures is not None and (epoch % 5 == 0 or epoch + 1 == job.epochs):
                board.add_image("clean | adversarial | denoised", job.pictures(), epoch)
            state.save(folder, live)
            bars.advance(epochs_bar)
    job.module.load_state_dict(state.best_weights)
    return Outcome(state.best_figures, state.epoch)


@dataclass(frozen=True)
class _Live:
    """All that changes with each step."""

    module: nn.Module
    optimiser: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    average: Average | None

    def step(self, loss: Tensor) -> None:
        """One step down `loss`."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.scheduler.step()
        if self.average is not None:
            self.average.update(self.module)

    def averaged(self) -> AbstractContextManager[None]:
        """The module is inside as it would be kept."""
        return nullcontext() if self.average is None else self.average.worn_by(self.module)


def _train_epoch(
    job: Fit, live: _Live, epoch: int, advance: Callable[[], object]
) -> dict[str, float]:
    """One pass over the images; the mean of each term of the loss."""
    generator = torch.Generator().manual_seed(job.seed * 100_003 + epoch)
    sums: dict[str, Tensor] = {}
    job.module.train()
    for step, indices in enumerate(_batches(job, generator)):
        progress = (epoch + step / _steps(job)) / job.epochs
        terms = job.loss(indices, Moment(progress, generator))
        live.step(torch.stack(list(terms.values())).sum())
        for name, value in terms.items():
            # A tensor until the epoch ends: a number would make the step wait for its device.
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
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)


@dataclass(frozen=True)
class _State:
    """Where a run is: epochs finished, and the best weights so far."""

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
            live.average.restore(**saved["average"])
        return cls(saved["epoch"], saved["best_figures"], saved["best_weights"])

    def after(self, epoch: int, figures: dict[str, float], module: nn.Module) -> "_State":
        if self.best_figures and figures["score"] <= self.best_figures["score"]:
            return _State(epoch + 1, self.best_figures, self.best_weights)
        weights = {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}
        return _State(epoch + 1, figures, weights)

    def save(self, folder: Path, live: _Live) -> None:
        unfinished = folder / "checkpoint.part"
        torch.save(
            {
                "epoch": self.epoch,
                "best_figures": self.best_figures,
                "best_weights": self.best_weights,
                "module": live.module.state_dict(),
                "optimiser": live.optimiser.state_dict(),
                "scheduler": live.scheduler.state_dict(),
                "average": None if live.average is None else live.average.state(),
            },
            unfinished,
        )
        unfinished.replace(folder / "checkpoint.pt")


def _report(
    board: SummaryWriter,
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
