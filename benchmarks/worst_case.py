"""The white-box worst case over every test image, at the price of attacking a part of them hard.

    python -m benchmarks.worst_case mnist                        # the shipped one alone
    python -m benchmarks.worst_case mnist-seed0 mnist-seed1 mnist --epsilon 0.2
    python -m benchmarks.worst_case mnist-seed0 mnist-seed1 mnist --table    # runs nothing

First PGD and APGD on all images. What still holds is put in order by the smallest margin that
these left, and the `--weakest` first of it meet the rest of what the preset `standard` knows:
feature distance, BPDA, MI-FGSM, targeted APGD-DLR, FAB-T, Square, and transfer from the classifier
alone and from the models of the other seeds. The images behind are not attacked again, so each
result says how deep in the order the last image lay that the second round broke.

Work is kept in `--folder` a hundred images at a time, so a stopped run goes on; the result is a
small JSON in benchmarks/reports/worst_case. The table is over all models named: seeds of one
recipe, as `fend train mnist --seed 0` makes them.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from benchmarks.common import counted, margins, markdown, parser_of, percent
from fend.attacks import APGD, FAB, MIFGSM, PGD, AttackSpec, Gradient, Objective, Square, attack
from fend.audit.levels import gradient_of
from fend.audit.plan import line_at
from fend.audit.rows.index_ranges import from_ranges, to_ranges
from fend.audit.work.attacked import attacked_model
from fend.bundles import Bundle, load_bundle, read_manifest
from fend.datasets import ImageSet, load
from fend.files import replace_atomically
from fend.threat import Knowledge, ThreatModel
from reproduction.estimates import estimate
from reproduction.result import Measured

RESULTS = Path("benchmarks/reports/worst_case")
CHUNK = 100
FIRST: tuple[AttackSpec, ...] = (PGD(steps=100, random_start=False), APGD(steps=100))
REST: tuple[AttackSpec, ...] = (
    PGD(steps=100, objective=Objective(loss="feature_distance")),
    PGD(steps=100, gradient=Gradient(denoiser="identity")),
    MIFGSM(steps=50),
    APGD(steps=100, targets=9, objective=Objective(loss="dlr")),
    FAB(steps=50, targets=9),
    Square(queries=5_000),
)
TRANSFERRED = FIRST[0]


@dataclass(frozen=True)
class Try:
    """One attack, by an attacker who knows so much."""

    title: str
    attacker: AttackSpec
    knowledge: Knowledge = Knowledge.WHITE_BOX
    surrogate: Bundle | None = None

    def on(
        self, target: Bundle, images: ImageSet, indices: list[int], threat: ThreatModel
    ) -> Tensor:
        """The margins (N,) of `target` that the attack leaves."""
        other = None if self.surrogate is None else self.surrogate.defence
        line = line_at(self.attacker, self.knowledge)
        model = attacked_model(target.defence, other, line)
        pixels, labels = images.pixels(torch.tensor(indices)), images.labels[torch.tensor(indices)]
        result = attack(line.attack, model, pixels, labels, threat, sample_ids=indices)
        return margins(target.defence, result.adversarial, labels)

    def decides(self) -> list[str]:
        """What its outcome depends on."""
        version = "" if self.surrogate is None else self.surrogate.manifest.version
        return [self.attacker.model_dump_json(), self.knowledge, version]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("models", nargs="+", help="Names in --models-dir.")
    parser.add_argument("--epsilon", type=float, default=0.2)
    parser.add_argument("--weakest", type=int, default=500, help="Images of the second round.")
    parser.add_argument("--only", nargs="+", help="Attack these; the others are surrogates.")
    parser.add_argument("--table", action="store_true", help="Run nothing.")
    parser.add_argument("--folder", type=Path, default=Path(".fend/worst-case"))
    options = parser.parse_args()
    if not options.table:
        bundles = {name: load_bundle(options.models_dir / name) for name in options.models}
        images = load("mnist:test", options.data_dir)
        for name in options.only or options.models:
            figures = _measure(name, bundles, images, options)
            path = RESULTS / f"{name}-eps{options.epsilon:g}.json"
            replace_atomically(path, json.dumps(figures) + "\n")
    print(table(options.models, options.models_dir))


def table(models: list[str], models_dir: Path) -> str:
    """Markdown: a row an epsilon, a column a model, and their mean; what each round did below."""
    found = list(_results(models, models_dir))
    rows = [["epsilon", *(f"`{name}`" for name in models), "mean ± sd over seeds [95 %]"]]
    epsilons = sorted({figures["epsilon"] for figures in found})
    for epsilon in epsilons:
        at = {figures["model"]: figures for figures in found if figures["epsilon"] == epsilon}
        if epsilon == epsilons[0]:
            rows.append(["clean", *_row(models, at, "clean_wrong")])
        rows.append([f"{epsilon:g}", *_row(models, at, "wrong")])
    notes = [
        f"{figures['model']} at {figures['epsilon']:g}: round one left {figures['held_first']}; "
        f"round two broke {len(figures['broken_ranks'])} of the weakest {figures['weakest']}, the "
        f"last at rank {max(figures['broken_ranks'], default=0)}: "
        + ", ".join(f"{title} {count}" for title, count in figures["broken_by"].items() if count)
        for figures in found
    ]
    return "\n".join([markdown(rows), "", *notes])


def _results(models: list[str], models_dir: Path) -> Iterator[dict[str, Any]]:
    """What was kept, but for models that are another version by now."""
    for name in models:
        for path in sorted(RESULTS.glob(f"{name}-eps*.json")):
            figures: dict[str, Any] = json.loads(path.read_text())
            folder = models_dir / name
            if folder.is_dir() and read_manifest(folder).version != figures["model_version"]:
                print(f"{path} is about another version of {name}: left out")
            else:
                yield figures


def _row(models: list[str], at: dict[str, Any], key: str) -> list[str]:
    measured = {
        name: Measured(correct=figures["n"] - len(from_ranges(figures[key])), n=figures["n"])
        for name, figures in at.items()
    }
    cells = [
        counted(measured[name].correct, measured[name].n) if name in measured else ""
        for name in models
    ]
    over = estimate(list(measured.values()))
    spread = "" if over.spread is None else f" ± {100 * over.spread:.2f}"
    return [*cells, f"{100 * over.mean:.2f}{spread} ({percent(over.low, over.high)})"]


def _measure(
    name: str, bundles: dict[str, Bundle], images: ImageSet, options: argparse.Namespace
) -> dict[str, Any]:
    target, threat = bundles[name], ThreatModel(norm="linf", epsilon=options.epsilon)
    others = {key: bundle for key, bundle in bundles.items() if key != name}
    version = target.manifest.version.removeprefix("sha256:")
    folder = options.folder / f"{version[:12]}-eps{options.epsilon:g}"

    first = [Try(item.name, item) for item in FIRST]
    least: dict[int, float] = {}
    for part in _chunks(list(range(len(images))), f"{name}: all images"):
        work = partial(_least_margins, target, first, images, part, threat)
        least |= _kept(folder / f"{_digest(first)}-{part[0]}-{len(part)}.json", work)
    held = sorted((index for index in least if least[index] > 0), key=least.__getitem__)

    tries = [Try(_title(item), item) for item in REST]
    tries.append(Try("transfer from the classifier", TRANSFERRED, Knowledge.GREY_BOX))
    tries += [
        Try(f"transfer from {key}", TRANSFERRED, Knowledge.GREY_BOX_AWARE, other)
        for key, other in others.items()
    ]
    weakest = held[: options.weakest]
    broken: dict[int, float] = {}
    for part in _chunks(weakest, f"{name}: the weakest"):
        work = partial(_broken, target, tries, images, part, threat)
        # The first round decides which images a part holds.
        path = folder / f"{_digest([*first, *tries])}-{part[0]}-{len(part)}.json"
        broken |= _kept(path, work)

    clean = margins(target.defence, images.pixels(torch.arange(len(images))), images.labels)
    clean_wrong = set((clean <= 0).nonzero()[:, 0].tolist())
    by = [tries[int(number)].title for number in broken.values()]
    return {
        "model": name,
        "model_version": target.manifest.version,
        "epsilon": options.epsilon,
        "n": len(images),
        "clean_wrong": to_ranges(clean_wrong),
        "wrong": to_ranges(clean_wrong | (set(least) - set(held)) | set(broken)),
        "held_first": len(held),
        "weakest": len(weakest),
        "broken_by": {item.title: by.count(item.title) for item in tries},
        "broken_ranks": sorted(weakest.index(index) + 1 for index in broken),
    }


def _least_margins(
    target: Bundle, tries: list[Try], images: ImageSet, part: list[int], threat: ThreatModel
) -> dict[int, float]:
    """By image: the smallest margin that `tries` left."""
    left = [item.on(target, images, part, threat) for item in tries]
    return dict(zip(part, torch.stack(left).amin(0).tolist(), strict=True))


def _broken(
    target: Bundle, tries: list[Try], images: ImageSet, part: list[int], threat: ThreatModel
) -> dict[int, float]:
    """By image that some of `tries` breaks: the number of the first one that does."""
    found: dict[int, float] = {}
    for number, item in enumerate(tries):
        left = [index for index in part if index not in found]
        if left:
            margin = item.on(target, images, left, threat).tolist()
            found |= {index: number for index, m in zip(left, margin, strict=True) if m <= 0}
    return found


def _title(item: AttackSpec) -> str:
    past = gradient_of(item).denoiser == "identity"
    return f"{item.name} {'bpda' if past else item.objective.loss}"


def _digest(tries: list[Try]) -> str:
    text = json.dumps([item.decides() for item in tries])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _chunks(indices: list[int], what: str) -> Any:
    parts = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
    return track(parts, description=what)


def _kept(path: Path, work: Callable[[], dict[int, float]]) -> dict[int, float]:
    if not path.is_file():
        replace_atomically(path, json.dumps(work()))
    found: dict[str, float] = json.loads(path.read_text())
    return {int(index): value for index, value in found.items()}


if __name__ == "__main__":
    main()
