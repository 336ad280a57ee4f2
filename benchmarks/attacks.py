"""PGD-100 and the four attacks of AutoAttack, ours and the peers', in one run.

    pip install -r benchmarks/attack_peers.txt --no-deps && pip install scikit-learn six
    fend train mnist-madry --profile cpu
    python -m benchmarks.attacks

Same model, images, epsilon, steps and step size for all, one thread. Every library first finds its
own fastest batch size on a few images; then the rounds alternate between libraries, each round with
another seed, and the median time counts. Accuracy (the mean of the rounds) is judged here, on the
images that a library returned, and so is their distance. torchattacks' AutoAttack runs 10 steps
where the original runs 100, so it is shown with both.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from benchmarks.attack_peers import (
    PGD_PEERS,
    Peer,
    Problem,
    fend_standard,
    torchattacks_standard,
)
from benchmarks.places import default_data_dir
from fend.bundle import load_bundle
from fend.datasets import load
from fend.models.registry import ARCHITECTURES
from fend.pipeline import frozen

BATCHES = (32, 125, 500)
TRIAL_IMAGES = 500
TRIAL_STEPS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unsecured", type=Path, default=Path("models/mnist-paper"))
    parser.add_argument("--robust", type=Path, default=Path("models/mnist-madry"))
    parser.add_argument("--dataset", default="mnist:test")
    parser.add_argument("--data-dir", type=Path, default=default_data_dir())
    parser.add_argument("--samples", type=int, default=1_000)
    parser.add_argument("--epsilon", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--queries", type=int, default=5_000, help="Square's, in `standard`.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("pgd", "standard"), default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = load(options.dataset, options.data_dir)
    chosen = images.sample(options.samples, seed=0)
    pixels, labels = images.pixels(chosen), images.labels[chosen]
    models = {
        f"unsecured ({options.unsecured.name}'s classifier)": load_classifier(options.unsecured),
        f"adversarially trained ({options.robust.name})": load_classifier(options.robust),
    }
    console = Console(width=110)
    problems = {
        name: Problem(model, pixels, labels, options.epsilon, options.steps)
        for name, model in models.items()
    }
    if options.only != "standard":
        for name, problem in problems.items():
            console.print(pgd_table(name, problem, options.rounds))
    if options.only != "pgd":
        robust = list(problems)[-1]  # against the other nothing is left to do after the first
        console.print(standard_table(robust, problems[robust], options.queries))


def load_classifier(bundle_dir: Path) -> nn.Module:
    """The classifier of a bundle, frozen, of ordinary layers: as it comes to any library."""
    bundle = load_bundle(bundle_dir)
    part = bundle.manifest.content.classifier
    plain = ARCHITECTURES[part.architecture](**part.config)
    plain.load_state_dict(bundle.defence.classifier.state_dict())
    return frozen(plain)


def pgd_table(name: str, problem: Problem, rounds: int) -> Table:
    """PGD by every library."""
    batches = {peer.name: _fastest_batch(peer, problem) for peer in PGD_PEERS}
    times: dict[str, list[float]] = {peer.name: [] for peer in PGD_PEERS}
    found: dict[str, list[Tensor]] = {peer.name: [] for peer in PGD_PEERS}
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=rounds * len(PGD_PEERS))
        for seed in range(rounds):
            for peer in PGD_PEERS:
                torch.manual_seed(seed)  # the peers draw their start from the global generators
                numpy.random.seed(seed)
                seeded = replace(problem, seed=seed)
                seconds, adversarial = _timed(
                    lambda peer=peer, seeded=seeded: _in_batches(  # type: ignore[misc]
                        peer, seeded, batches[peer.name]
                    )
                )
                times[peer.name].append(seconds)
                found[peer.name].append(adversarial)
                bar.advance(task)
    table = Table(
        "library", "batch", "time, s", "times ours", "accuracy left", "largest distance",
        title=f"PGD-{problem.steps} at {problem.epsilon:g}, {len(problem.labels)} images: {name}",
    )  # fmt: skip
    ours = statistics.median(times["Fend"])
    for peer in PGD_PEERS:
        median = statistics.median(times[peer.name])
        table.add_row(
            peer.title, str(batches[peer.name]), f"{median:.1f}", f"{median / ours:.2f}",
            *_judged(problem, found[peer.name]),
        )  # fmt: skip
    return table


def standard_table(name: str, problem: Problem, queries: int) -> Table:
    """APGD-CE, targeted APGD-DLR, FAB-T and Square, each on what the ones before left."""
    ours_s, ours = _timed(lambda: fend_standard(problem, queries))
    table = Table(
        "library", "time, s", "times ours", "accuracy left", "largest distance",
        title=f"Four attacks, Square-{queries}, {len(problem.labels)} images: {name}",
    )  # fmt: skip
    table.add_row("Fend, 100 steps", f"{ours_s:.0f}", "1.00", *_judged(problem, [ours]))
    for steps in (100, 10):  # AutoAttack's own, and torchattacks' default
        seconds, found = _timed(lambda: torchattacks_standard(problem, queries, steps))  # noqa: B023
        table.add_row(
            f"torchattacks AutoAttack, {steps} steps", f"{seconds:.0f}",
            f"{seconds / ours_s:.2f}", *_judged(problem, [found]),
        )  # fmt: skip
    return table


def _fastest_batch(peer: Peer, problem: Problem) -> int:
    trial = problem.part(0, TRIAL_IMAGES)
    trial = replace(trial, steps=TRIAL_STEPS)
    seconds = {
        batch: min(_timed(lambda: _in_batches(peer, trial, batch))[0] for _ in range(3))  # noqa: B023
        for batch in BATCHES
    }
    return min(seconds, key=seconds.__getitem__)


def _in_batches(peer: Peer, problem: Problem, batch: int) -> Tensor:
    starts = range(0, len(problem.labels), batch)
    return torch.cat([peer.run(problem.part(start, start + batch)) for start in starts])


def _timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    started = time.perf_counter()
    adversarial = run()
    return time.perf_counter() - started, adversarial


def _judged(problem: Problem, found: list[Tensor]) -> tuple[str, str]:
    """Accuracy left, the mean over `found`, and the largest distance of all."""
    rights = []
    with torch.inference_mode():
        for adversarial in found:
            right = problem.model(adversarial).argmax(1) == problem.labels
            rights.append(float(right.double().mean()))
    distance = max(float((images - problem.pixels).abs().max()) for images in found)
    return f"{100 * statistics.mean(rights):.2f} %", f"{distance:.6f}"


if __name__ == "__main__":
    main()
