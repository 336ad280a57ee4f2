"""What each part of the online defence adds: one thing changed at a time, on one small budget.

    python -m benchmarks.ablations             # every cell that is not there yet; prints the table
    python -m benchmarks.ablations --only online static
    python -m benchmarks.ablations --table     # runs nothing

A cell trains `mnist-online` (or the recipe that it names) on 10,000 images for 8 epochs with an
8-channel U-Net, and attacks it white-box on 500 test images. Its numbers are a small JSON in
benchmarks/reports/ablations; a cell of another recipe or audit is made again. A stopped training
goes on from its last epoch. The budget is the same for all and far from enough for any: the table
compares, and says nothing of what a full training reaches.
"""

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.places import default_data_dir
from fend.attacks import APGD, PGD, Gradient, Objective
from fend.audit import AuditSpec, build_report, open_audit, plan, run_shard, source_of
from fend.audit.report import Share
from fend.threat import Knowledge, ThreatModel
from training.line import run_recipe
from training.recipe import Recipe
from training.recipe_files import load_recipe
from training.reproduce.result import write_whole

CELLS_DIR = Path("benchmarks/reports/ablations")
BUDGET = ("data.limit=10000", "data.held_out=1000", "denoiser.epochs=8")


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    name: str
    what: str
    recipe: str = "mnist-online"
    changes: tuple[str, ...] = ()
    width: int = 8

    def written(self, seed: int) -> Recipe:
        """The recipe that is trained."""
        changes = [*BUDGET, f"denoiser.config.width={self.width}", *self.changes]
        return load_recipe(self.recipe, changes=[*changes, f"name=ablation-{self.name}"], seed=seed)


CELLS = (
    Cell("online", "the base: online, all terms, SqueezeNet, width 8"),
    Cell(
        "static", "static images alone, each variant once an epoch (so three times the steps)",
        recipe="mnist-static",
        changes=(
            "loss.task_weight=1.0", "loss.feature_weight=0.1", "loss.pixel_weight=0.1",
            "denoiser.batch_size=64", "denoiser.optimiser.learning_rate=0.002",
            "denoiser.optimiser.weight_decay=0.0", "denoiser.average=0.999",
        ),
    ),
    Cell("no-task", "without the task term", changes=("loss.task_weight=0.0",)),
    Cell("pixels", "pixel and task terms, no features", changes=("loss.network=none",)),
    Cell("features", "feature and task terms, no pixels", changes=("loss.pixel_weight=0.0",)),
    Cell("width-16", "U-Net of width 16", width=16),
    Cell(
        "task", "the task term alone",
        changes=("loss.network=none", "loss.pixel_weight=0.0"),
    ),
    Cell("joint", "denoiser and classifier together (recipe `mnist`)", recipe="mnist"),
    Cell("width-4", "U-Net of width 4", width=4),
    Cell("width-32", "U-Net of width 32", width=32),
    Cell(
        "logits", "the protected classifier's logits as features (HGD)",
        changes=("loss.network=classifier", "loss.taps=logits"),
    ),
    Cell(
        "vgg16-voc", "VGG-16 of VOC as the loss network",
        changes=("loss.network=vgg16-voc", "loss.taps=text"),
    ),
    Cell(
        "vgg16-cifar10", "VGG-16 of CIFAR-10 as the loss network",
        changes=("loss.network=vgg16-cifar10", "loss.taps=text"),
    ),
)  # fmt: skip
"""The most telling ones first."""

ATTACKS = (
    PGD(steps=100, random_start=False),
    PGD(steps=50, gradient=Gradient(denoiser="identity")),
    APGD(steps=100),
    APGD(steps=20, targets=9, objective=Objective(loss="dlr")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[cell.name for cell in CELLS])
    parser.add_argument("--table", action="store_true", help="Run nothing.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(".fend/ablations"))
    parser.add_argument("--cells-dir", type=Path, default=CELLS_DIR)
    parser.add_argument("--data-dir", type=Path, default=default_data_dir())
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.cells_dir.mkdir(parents=True, exist_ok=True)
    chosen = [cell for cell in CELLS if not options.only or cell.name in options.only]
    for cell in [] if options.table else chosen:
        if _read(cell, options) is None:
            _run(cell, options)
    print(table({cell.name: _read(cell, options) for cell in CELLS}))


def table(found: dict[str, dict[str, Any] | None]) -> str:
    """Markdown; a cell that has not been run is empty."""
    rows = [["cell", "what differs", "clean, %", "white-box, %"], ["---"] * 4]
    for cell in CELLS:
        figures = found[cell.name]
        shares = ["", ""]
        if figures is not None:
            shares = [_cell(figures[key]) for key in ("clean", "worst_case")]
        rows.append([f"`{cell.name}`", cell.what, *shares])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(share: dict[str, Any]) -> str:
    found = Share.model_validate(share)
    return f"{100 * found.accuracy:.1f} ({100 * found.low:.1f}-{100 * found.high:.1f})"


def _run(cell: Cell, options: argparse.Namespace) -> None:
    recipe, spec = cell.written(options.seed), _audit(cell)
    bundle_dir = options.folder / "models" / recipe.name
    manifest = run_recipe(
        recipe,
        data_dir=options.data_dir,
        bundle_dir=bundle_dir,
        runs_dir=options.folder / "runs",
        resume=True,
        device=torch.device("cpu"),
        console=Console(),
    )
    opened = open_audit(
        spec.model_copy(update={"model": manifest.name}), bundle_dir, options.data_dir
    )
    rows = [
        row for shard in plan(opened.spec, opened.image_set) for row in run_shard(opened, shard)
    ]
    report = build_report(opened.spec, source_of(opened), rows)
    figures = {
        "cell": cell.name,
        "key": _key(cell, options.seed),
        "seed": options.seed,
        "model_version": manifest.version,
        "epsilon": report.threat.epsilon,
        "clean": report.clean.defended.model_dump(),
        "worst_case": report.worst_case.model_dump(),
        "lines": {line.title: line.defended.model_dump() for line in report.lines},
        "made_with": manifest.about["made_with"],
    }
    write_whole(_path(cell, options), json.dumps(figures, indent=1) + "\n")
    print(f"{cell.name}: {_cell(figures['worst_case'])}", flush=True)


def _audit(cell: Cell) -> AuditSpec:
    return AuditSpec(
        model=cell.name,
        samples=500,
        threat=ThreatModel(norm="linf", epsilon=0.2),
        knowledge=(Knowledge.WHITE_BOX,),
        attacks=ATTACKS,
        cascade=True,
        sanity_samples=0,
        examples=0,
        shard_size=100,
    )


def _key(cell: Cell, seed: int) -> str:
    """Digest of what decides the numbers."""
    recipe = cell.written(seed).model_dump(mode="json", exclude={"summary"}, exclude_none=True)
    decides = [recipe, _audit(cell).model_dump(mode="json")]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def _path(cell: Cell, options: argparse.Namespace) -> Path:
    cells_dir: Path = options.cells_dir
    return cells_dir / f"{cell.name}-seed{options.seed}.json"


def _read(cell: Cell, options: argparse.Namespace) -> dict[str, Any] | None:
    path = _path(cell, options)
    if not path.is_file():
        return None
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures if figures["key"] == _key(cell, options.seed) else None


if __name__ == "__main__":
    main()
