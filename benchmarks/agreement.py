"""Our FGSM and PGD against torchattacks' and foolbox's: same model, images and budget.

    python -m benchmarks.agreement

Prints how far the FGSM images differ, the accuracy that each PGD leaves, and the time each took
(one run, one thread; a ratio of this machine, not a benchmark to quote).
"""

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.common import parser_of
from fend.attacks import FGSM, PGD, attack
from fend.bundles import load_bundle
from fend.datasets import load
from fend.threat import ThreatModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the peers' own imports warn
    import foolbox
    import torchattacks

Attacker = Callable[[], Tensor]
"""Makes adversarial images (N,C,H,W)."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/mnist"))
    parser.add_argument("--dataset", default="mnist:test")
    parser.add_argument("--samples", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    options = parser.parse_args()
    classifier = load_bundle(options.model).defence.classifier
    images = load(options.dataset, options.data_dir)
    chosen = images.sample(options.samples, seed=0)
    pixels, labels = images.pixels(chosen), images.labels[chosen]
    table = Table(
        "epsilon", "FGSM: torchattacks", "FGSM: foolbox", "PGD: Fend", "torchattacks", "foolbox",
        title=f"bare classifier of {options.model}, {len(chosen)} images, PGD-{options.steps}",
        caption="FGSM: largest difference of a pixel from ours. PGD: accuracy left, seconds.",
    )  # fmt: skip
    for epsilon in options.epsilons:
        table.add_row(*_row(classifier, pixels, labels, epsilon, options.steps))
    Console().print(table)


def _row(
    classifier: nn.Module, pixels: Tensor, labels: Tensor, epsilon: float, steps: int
) -> list[str]:
    threat, step_size = ThreatModel(epsilon=epsilon), 2.5 * epsilon / steps
    peer = foolbox.PyTorchModel(classifier, bounds=(0, 1), device="cpu")
    foolbox_pgd = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps)
    ours = attack(FGSM(), classifier, pixels, labels, threat).adversarial
    differences = [
        ours - torchattacks.FGSM(classifier, eps=epsilon)(pixels, labels),
        ours - foolbox.attacks.FGSM()(peer, pixels, labels, epsilons=epsilon)[1],
    ]
    pgd = PGD(steps=steps, step_size=step_size)
    runs: list[Attacker] = [
        lambda: attack(pgd, classifier, pixels, labels, threat).adversarial,
        lambda: torchattacks.PGD(classifier, eps=epsilon, alpha=step_size, steps=steps)(
            pixels, labels
        ),
        lambda: foolbox_pgd(peer, pixels, labels, epsilons=epsilon)[1],
    ]
    return [
        f"{epsilon}",
        *(f"{float(difference.abs().max()):.1e}" for difference in differences),
        *(_accuracy_and_time(run, classifier, labels) for run in runs),
    ]


def _accuracy_and_time(run: Attacker, classifier: nn.Module, labels: Tensor) -> str:
    torch.manual_seed(0)  # the peers draw their start from the global generator
    started = time.perf_counter()
    adversarial = run()
    wall_s = time.perf_counter() - started
    with torch.inference_mode():
        right = classifier(adversarial).argmax(1) == labels
    return f"{100 * float(right.double().mean()):.1f} %, {wall_s:.1f} s"


if __name__ == "__main__":
    main()
