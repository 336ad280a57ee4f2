"""The white-box worst case over every test image, at the price of attacking a part of them hard.

    python -m benchmarks.worst_case mnist mnist-seed1 mnist-seed2 --epsilon 0.2
    python -m benchmarks.worst_case mnist mnist-seed1 mnist-seed2 --table     # runs nothing

First PGD and APGD on all images. What still holds is put in order by the smallest margin that
these left, and the `--weakest` first of it meet the rest of what the preset `standard` knows:
feature distance, BPDA, MI-FGSM, targeted APGD-DLR, FAB-T, Square, and transfer from the classifier
alone and from the models of the other seeds. The images behind are not attacked again, so each
result says how deep in the order the last image lay that the second round broke.

Work is kept in `--folder` a hundred images at a time, so a stopped run goes on; the result is a
small JSON in benchmarks/reports/worst_case. The table is over all models named: seeds of one
recipe.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from benchmarks.places import default_data_dir
from fend.attacks import APGD, FAB, MIFGSM, PGD, AttackSpec, Gradient, Objective, Square, attack
from fend.audit.attacked import attacked_model
from fend.audit.index_ranges import from_ranges, to_ranges
from fend.audit.levels import attack_at, gradient_of
from fend.audit.statistics import wilson_interval
from fend.bundle import load_bundle
from fend.datasets import ImageSet, load
from fend.pipeline import Defence
from fend.threat import Knowledge, ThreatModel
from training.reproduce.estimates import estimate
from training.reproduce.result import Measured

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
    knowledge: Knowledge
    surrogate: Defence | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="Names in --models-dir; the last ones may lack.")
    parser.add_argument("--epsilon", type=float, default=0.2)
    parser.add_argument("--weakest", type=int, default=500, help="Images of the second round.")
    parser.add_argument("--only", nargs="+", help="Attack these; the others are surrogates.")
    parser.add_argument("--table", action="store_true", help="Run nothing.")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--data-dir", type=Path, default=default_data_dir())
    parser.add_argument("--folder", type=Path, default=Path(".fend/worst-case"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        defences = {name: _defence(options.models_dir / name) for name in options.models}
        images = load("mnist:test", options.data_dir)
        for name in options.only or options.models:
            version, defence = defences[name]
            others = {key: other for key, (_, other) in defences.items() if key != name}
            figures = _measure(name, version, defence, others, images, options)
            _keep(_path(name, options.epsilon), figures)
    print(table(options.models))


def table(models: list[str]) -> str:
    """Markdown: a row an epsilon, a column a model, and their mean."""
    found = [_read(path) for name in models for path in sorted(RESULTS.glob(f"{name}-eps*.json"))]
    found = [figures for figures in found if figures["model"] in models]
    rows = [["epsilon", *(f"`{name}`" for name in models), "mean ± sd over seeds [95 %]"]]
    rows.append(["---"] * len(rows[0]))
    for epsilon in sorted({figures["epsilon"] for figures in found}):
        at = {figures["model"]: figures for figures in found if figures["epsilon"] == epsilon}
        if epsilon == min(figures["epsilon"] for figures in found):
            rows.append(["clean", *_row(models, at, "clean_wrong")])
        rows.append([f"{epsilon:g}", *_row(models, at, "wrong")])
    notes = [
        f"{figures['model']} at {figures['epsilon']:g}: round one left {figures['held_first']}; "
        f"round two broke {len(figures['broken_places'])} of the weakest {figures['weakest']}, the "
        f"last at place {max(figures['broken_places'], default=0)}: "
        + ", ".join(f"{title} {count}" for title, count in figures["broken_by"].items() if count)
        for figures in found
    ]
    return "\n".join(["| " + " | ".join(row) + " |" for row in rows] + ["", *notes])


def _row(models: list[str], at: dict[str, Any], key: str) -> list[str]:
    measured = {
        name: Measured(correct=figures["n"] - len(from_ranges(figures[key])), n=figures["n"])
        for name, figures in at.items()
    }
    cells = []
    for name in models:
        item = measured.get(name)
        low, high = wilson_interval(item.correct, item.n) if item else (0.0, 1.0)
        cells.append(f"{100 * item.accuracy:.1f} ({_percent(low, high)})" if item else "")
    if not measured:
        return [*cells, ""]
    over = estimate(list(measured.values()))
    spread = "" if over.spread is None else f" ± {100 * over.spread:.2f}"
    return [*cells, f"{100 * over.mean:.2f}{spread} ({_percent(over.low, over.high)})"]


def _percent(low: float, high: float) -> str:
    return f"{100 * low:.1f}-{100 * high:.1f}"


def _measure(
    name: str,
    version: str,
    defence: Defence,
    others: dict[str, Defence],
    images: ImageSet,
    options: argparse.Namespace,
) -> dict[str, Any]:
    threat = ThreatModel(norm="linf", epsilon=options.epsilon)
    folder = options.folder / f"{version.removeprefix('sha256:')[:12]}-eps{options.epsilon:g}"
    folder.mkdir(parents=True, exist_ok=True)
    first = [Try(item.name, item, Knowledge.WHITE_BOX) for item in FIRST]
    margins: dict[int, float] = {}
    everything = list(range(len(images)))
    for part in _chunks(everything, f"{name}: all images"):
        margins |= _kept(
            folder / f"first-{part[0]}.json",
            lambda part=part: _margins(defence, first, images, part, threat),  # type: ignore[misc]
        )
    held = sorted((places for places in margins if margins[places] > 0), key=margins.__getitem__)
    weakest = held[: options.weakest]
    tries = [Try(_title(item), item, Knowledge.WHITE_BOX) for item in REST]
    tries.append(Try("transfer from the classifier", TRANSFERRED, Knowledge.GREY_BOX))
    tries += [
        Try(f"transfer from {key}", TRANSFERRED, Knowledge.GREY_BOX_AWARE, other)
        for key, other in others.items()
    ]
    broken_by: dict[str, int] = {item.title: 0 for item in tries}
    broken: set[int] = set()
    for part in _chunks(weakest, f"{name}: the weakest"):
        found = _kept(
            folder / f"rest-{part[0]}-{part[-1]}-{len(part)}-{len(others)}.json",
            lambda part=part: _first_to_break(defence, tries, images, part, threat),  # type: ignore[misc]
        )
        for place, number in found.items():
            broken.add(place)
            broken_by[tries[int(number)].title] += 1
    clean_wrong = _clean_wrong(defence, images)
    wrong = {place for place, margin in margins.items() if margin <= 0} | broken | clean_wrong
    return {
        "model": name,
        "model_version": version,
        "epsilon": options.epsilon,
        "n": len(images),
        "clean_wrong": to_ranges(clean_wrong),
        "wrong": to_ranges(wrong),
        "held_first": len(held),
        "weakest": len(weakest),
        "broken_by": broken_by,
        "broken_places": sorted(weakest.index(place) + 1 for place in broken),
    }


def _margins(
    defence: Defence, tries: list[Try], images: ImageSet, part: list[int], threat: ThreatModel
) -> dict[int, float]:
    """How far the right logit stays above the best other one: the least that `tries` left."""
    pixels, labels = images.pixels(torch.tensor(part)), images.labels[torch.tensor(part)]
    least = torch.full((len(part),), torch.inf)
    for item in tries:
        margin = _margin(defence, _attacked(defence, item, pixels, labels, part, threat), labels)
        least = torch.minimum(least, margin)
    return dict(zip(part, least.tolist(), strict=True))


def _first_to_break(
    defence: Defence, tries: list[Try], images: ImageSet, part: list[int], threat: ThreatModel
) -> dict[int, float]:
    """Of the images that some of `tries` breaks: the place of the first one that does."""
    found: dict[int, float] = {}
    left = part
    for number, item in enumerate(tries):
        if not left:
            break
        pixels, labels = images.pixels(torch.tensor(left)), images.labels[torch.tensor(left)]
        margin = _margin(defence, _attacked(defence, item, pixels, labels, left, threat), labels)
        found |= {place: number for place, m in zip(left, margin.tolist(), strict=True) if m <= 0}
        left = [place for place in left if place not in found]
    return found


def _attacked(
    defence: Defence,
    item: Try,
    pixels: Tensor,
    labels: Tensor,
    places: list[int],
    threat: ThreatModel,
) -> Tensor:
    model = attacked_model(defence, item.surrogate, item.knowledge, gradient_of(item.attacker))
    attacker = attack_at(item.attacker, item.knowledge)
    return attack(attacker, model, pixels, labels, threat, sample_ids=places).adversarial


def _margin(defence: Defence, images: Tensor, labels: Tensor) -> Tensor:
    """(N,); 0 or less where another class is at least as likely."""
    with torch.inference_mode():
        logits: Tensor = defence(images)
    right = logits.gather(1, labels[:, None])[:, 0]
    return right - logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def _clean_wrong(defence: Defence, images: ImageSet) -> set[int]:
    return {
        place
        for part in torch.arange(len(images)).chunk(10)
        for place, margin in zip(
            part.tolist(),
            _margin(defence, images.pixels(part), images.labels[part]).tolist(),
            strict=True,
        )
        if margin <= 0
    }


def _title(item: AttackSpec) -> str:
    objective, past = item.objective.loss, gradient_of(item).denoiser == "identity"
    return " ".join([item.name, "bpda" if past else objective])


def _defence(folder: Path) -> tuple[str, Defence]:
    bundle = load_bundle(folder)
    return bundle.manifest.version, bundle.defence


def _chunks(places: list[int], what: str) -> Any:
    parts = [places[start : start + CHUNK] for start in range(0, len(places), CHUNK)]
    return track(parts, description=what)


def _kept(path: Path, work: Callable[[], dict[int, float]]) -> dict[int, float]:
    if not path.is_file():
        _keep(path, work())
    found: dict[str, float] = json.loads(path.read_text())
    return {int(place): value for place, value in found.items()}


def _path(name: str, epsilon: float) -> Path:
    return RESULTS / f"{name}-eps{epsilon:g}.json"


def _read(path: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def _keep(path: Path, what: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(what) + "\n")
    unfinished.replace(path)


if __name__ == "__main__":
    main()
