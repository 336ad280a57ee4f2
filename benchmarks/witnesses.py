"""Independent witnesses: do torchattacks' and ART's own attacks break what an audit of ours left?

    pip install -r benchmarks/attack_peers.txt --no-deps && pip install scikit-learn six
    python -m benchmarks.witnesses --report benchmarks/reports/mnist.standard.json --samples 200

Takes the images of a report that hold in its worst case, weakest first: by the margin that a short
PGD leaves. Each witness attacks the first of them through denoiser and classifier; what it returns
is judged here, inside the threat model or not at all. An image that a witness breaks is one that
our worst case missed. What each has done is kept in `--folder`, so a stopped run goes on.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.attack_peers import (
    Problem,
    art_pgd,
    art_standard,
    torchattacks_pgd,
    torchattacks_standard,
)
from benchmarks.margins import margins
from benchmarks.places import default_data_dir
from fend.attacks import PGD, attack
from fend.audit import AuditDocument, Report
from fend.audit.index_ranges import from_ranges
from fend.bundle import Bundle, load_bundle
from fend.datasets import ImageSet, load
from fend.threat import ThreatModel
from training.reproduce.result import write_whole

WEAKNESS_STEPS = 40
ROUNDING = 1e-6
"""How far beyond epsilon an image may be, since peers add and subtract in another order."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--report", type=Path, default=Path("benchmarks/reports/mnist.standard.json")
    )
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--data-dir", type=Path, default=default_data_dir())
    parser.add_argument("--folder", type=Path, default=Path(".fend/witnesses"))
    parser.add_argument("--samples", type=int, default=200, help="Of the images that hold.")
    parser.add_argument("--chunk", type=int, default=50)
    parser.add_argument("--steps", type=int, default=100, help="All but ART AutoAttack's.")
    parser.add_argument("--queries", type=int, default=5_000, help="Square's.")
    parser.add_argument("--only", nargs="+", help="Witnesses by name.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = AuditDocument.model_validate_json(options.report.read_bytes()).result
    bundle = load_bundle(options.models_dir / report.identity.model)
    if bundle.manifest.version != report.identity.model_version:
        parser.error(f"{options.report} is about another version of {report.identity.model}")
    images = load(report.identity.dataset, options.data_dir)
    folder = options.folder / bundle.manifest.version.removeprefix("sha256:")[:12]
    folder.mkdir(parents=True, exist_ok=True)
    held = _weakest_first(folder, report, bundle, images)
    chosen = held[: options.samples]
    broken: dict[str, list[int]] = {}
    for name, run in _witnesses(options.queries).items():
        if options.only and name not in options.only:
            continue
        budget = {
            "torchattacks AutoAttack": f"steps{options.steps}.queries{options.queries}",
            "ART AutoAttack": f"queries{options.queries}",
        }.get(name, f"steps{options.steps}")
        broken[name] = []
        for start in range(0, len(chosen), options.chunk):
            part = chosen[start : start + options.chunk]
            path = folder / f"{name.replace(' ', '-')}.{budget}.{start}-{len(part)}.json"
            if not path.is_file():
                problem = Problem(
                    bundle.defence, images.pixels(torch.tensor(part)),
                    images.labels[torch.tensor(part)], report.spec.threat.epsilon, options.steps,
                )  # fmt: skip
                torch.manual_seed(0)  # the peers draw from the global generator
                write_whole(path, json.dumps([part[n] for n in _broken(problem, run(problem))]))
            broken[name] += json.loads(path.read_text())
            print(f"{name}: {start + len(part)} images, {len(broken[name])} broken", flush=True)
    Console(width=100).print(_table(report, len(chosen), len(held), broken))


def _witnesses(queries: int) -> dict[str, Callable[[Problem], Tensor]]:
    return {
        "torchattacks PGD": torchattacks_pgd,
        "ART PGD": art_pgd,
        "torchattacks AutoAttack": lambda problem: torchattacks_standard(
            problem, queries, problem.steps
        ),
        "ART AutoAttack": lambda problem: art_standard(problem, queries),
    }


def _weakest_first(folder: Path, report: Report, bundle: Bundle, images: ImageSet) -> list[int]:
    """The images that hold in the worst case of `report`, smallest margin under PGD first."""
    path = folder / "weakest-first.json"
    if not path.is_file():
        wrong = frozenset[int]().union(*map(from_ranges, report.wrong_by_knowledge.values()))
        held = sorted(from_ranges(report.identity.indices) - wrong)
        weakness = [
            margin
            for part in torch.tensor(held).split(100)
            for margin in _margins(bundle.defence, images, part, report.spec.threat)
        ]
        write_whole(
            path, json.dumps([index for _, index in sorted(zip(weakness, held, strict=True))])
        )
    order: list[int] = json.loads(path.read_text())
    return order


def _margins(
    model: nn.Module, images: ImageSet, chosen: Tensor, threat: ThreatModel
) -> list[float]:
    """How far the right logit stays above the best other one under PGD from the image."""
    pixels, labels = images.pixels(chosen), images.labels[chosen]
    pgd = PGD(steps=WEAKNESS_STEPS, random_start=False, early_stop=False)
    adversarial = attack(pgd, model, pixels, labels, threat).adversarial
    left: list[float] = margins(model, adversarial, labels).tolist()
    return left


def _broken(problem: Problem, adversarial: Tensor) -> list[int]:
    """The places in the problem that are answered wrongly, inside the threat model."""
    adversarial = adversarial.detach().float()
    distance = (adversarial - problem.pixels).abs().flatten(1).amax(1)
    inside = distance <= problem.epsilon + ROUNDING
    inside &= (adversarial.flatten(1).amin(1) >= 0) & (adversarial.flatten(1).amax(1) <= 1)
    if outside := int((~inside).sum()):
        print(f"{outside} images outside the threat model: not counted")
    with torch.inference_mode():
        wrong = problem.model(adversarial).argmax(1) != problem.labels
    places: list[int] = (wrong & inside).nonzero()[:, 0].tolist()
    return places


def _table(report: Report, tried: int, held: int, broken: dict[str, list[int]]) -> Table:
    n, ours = report.identity.n, 100 * report.worst_case.accuracy
    table = Table(
        "witness", "of the weakest", "breaks", "they go below our worst case by", "images",
        title=f"{report.identity.model}, epsilon {report.threat.epsilon:g}, {n} images: "
        f"our worst case leaves {ours:.1f} % ({held})",
    )  # fmt: skip
    together = sorted(set[int]().union(*broken.values()))
    for name, places in [*broken.items(), ("all of them", together)]:
        below = f"{100 * len(places) / n:.1f} points"
        table.add_row(name, str(tried), str(len(places)), below, ", ".join(map(str, places)))
    return table


if __name__ == "__main__":
    main()
