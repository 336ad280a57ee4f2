"""From the results of cells to the rows of tables. Nothing here runs a model."""

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fend.threat import Knowledge
from reproduction.attacks import GREY
from reproduction.cells import DEFENCES, EPSILONS
from reproduction.estimates import Estimate, difference, estimate
from reproduction.paper import NOTES, SAYS, TITLES
from reproduction.profiles import profiles
from reproduction.result import AtLevel, CellResult, Measured
from reproduction.sanity import violations

AttackName = Literal["fgsm", "pgd", "worst"]
ATTACKS: tuple[AttackName, ...] = ("fgsm", "pgd", "worst")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Provenance(_Part):
    """Origin of a row's figures."""

    profile: str
    seeds: tuple[int, ...]
    train_images: int
    loss: str | None


class Row(_Part):
    """One defence at one epsilon."""

    defence: str
    title: str
    paper: dict[str, float]
    """Accuracy that the paper prints, by attack, in percent."""
    note: str | None
    made: Provenance | None
    """Origin of the figures below; None: not run yet."""
    clean: Estimate | None = None
    levels: dict[Knowledge, dict[AttackName, Estimate]] = {}
    at_half: Estimate | None = None
    flags: tuple[str, ...] = ()


class DetectorRow(_Part):
    detector: str
    profile: str
    false_positives: Estimate
    detected: dict[str, Estimate]


class AblationRow(_Part):
    """A loss against pixels alone: equal network, data and epochs, the same seeds and images."""

    loss: str
    budget: str
    seeds: int
    clean: Estimate
    fgsm: Estimate
    """Grey-box; this and the next are differences, as is `clean`."""
    pgd: Estimate
    white_box: Estimate
    """Worst case of all attacks."""
    pixels_alone: dict[str, float]
    """The accuracies that the differences are to."""


class DataTable(_Part):
    """Everything about one data set at one epsilon."""

    format: Literal["fend-reproduce-table/1"] = "fend-reproduce-table/1"
    data: str
    epsilon: float
    rows: tuple[Row, ...]
    detectors: tuple[DetectorRow, ...]
    ablation: tuple[AblationRow, ...]


def tables_of(results: Sequence[CellResult], data: Sequence[str]) -> list[DataTable]:
    """One for each data set and epsilon, with a row for each defence, whether it was run or not."""
    return [_table(results, name, epsilon) for name in data for epsilon in EPSILONS[name]]


def _table(results: Sequence[CellResult], data: str, epsilon: float) -> DataTable:
    own = [item for item in results if item.data == data]
    defences = [item for item in own if item.group == "defences"]
    by_defence = {name: _best(defences, name) for name in DEFENCES[data]}
    main = epsilon == EPSILONS[data][0]
    return DataTable(
        data=data,
        epsilon=epsilon,
        rows=tuple(_row(data, name, epsilon, cells) for name, cells in by_defence.items()),
        detectors=tuple(_detectors(by_defence)) if main else (),
        ablation=tuple(_ablation(own, epsilon)) if main else (),
    )


def _best(results: Sequence[CellResult], defence: str) -> list[CellResult]:
    """The seeds of a defence, by the largest profile that made any: profiles are never mixed."""
    for profile in profiles():
        cells = [r for r in results if r.defence == defence and r.profile == profile]
        if cells:
            return sorted(cells, key=lambda cell: cell.seed)
    return []


def _row(data: str, defence: str, epsilon: float, cells: Sequence[CellResult]) -> Row:
    says = SAYS.get(data, {}).get(defence, {}) if epsilon == GREY else {}
    row = Row(
        defence=defence,
        title=TITLES[defence],
        paper=dict(says),
        note=NOTES.get(data, {}).get(defence) if says else None,
        made=None,
    )
    if not cells:
        return row
    first = cells[0]
    threats = [cell.under(epsilon) for cell in cells]
    flags = [
        f"seed {cell.seed}: {text}"
        for cell, threat in zip(cells, threats, strict=True)
        for text in violations(cell, threat)
    ]
    return row.model_copy(
        update={
            "made": Provenance(
                profile=first.profile,
                seeds=tuple(cell.seed for cell in cells),
                train_images=first.train_images,
                loss=first.loss,
            ),
            "clean": estimate([cell.clean for cell in cells]),
            "levels": {
                level: {
                    name: estimate([getattr(threat.levels[level], name) for threat in threats])
                    for name in ATTACKS
                }
                for level in threats[0].levels
            },
            "at_half": estimate([threat.at_half for threat in threats]),
            "flags": tuple(flags),
        }
    )


def _detectors(by_defence: dict[str, list[CellResult]]) -> list[DetectorRow]:
    rows = []
    for cells in by_defence.values():
        for place, detection in enumerate(cells[0].detection if cells else ()):
            all_seeds = [cell.detection[place] for cell in cells]
            rows.append(
                DetectorRow(
                    detector=detection.detector,
                    profile=cells[0].profile,
                    false_positives=estimate([item.false_positives for item in all_seeds]),
                    detected={
                        name: estimate([item.detected[name] for item in all_seeds])
                        for name in detection.detected
                    },
                )
            )
    return rows


def _ablation(results: Sequence[CellResult], epsilon: float) -> list[AblationRow]:
    """`feature-loss` against `pixel-mse` as in the main table, then each loss network."""
    defences = [item for item in results if item.group == "defences"]
    rows = _against(_best(defences, "feature-loss"), _best(defences, "pixel-mse"), epsilon)
    ablation = [item for item in results if item.group == "ablation"]
    for variant in dict.fromkeys(item.defence for item in ablation):
        if variant != "none":
            rows += _against(_best(ablation, variant), _best(ablation, "none"), epsilon)
    return rows


def _against(
    ours: Sequence[CellResult], pixels: Sequence[CellResult], epsilon: float
) -> list[AblationRow]:
    """[] where no seed of both was run with one profile on the same images."""
    others = {_comparable(cell): cell for cell in pixels}
    pairs = [(cell, others[_comparable(cell)]) for cell in ours if _comparable(cell) in others]
    if not pairs:
        return []
    first = pairs[0][0]

    def compared(of: Callable[[CellResult], Measured]) -> Estimate:
        return difference([of(a) for a, _ in pairs], [of(b) for _, b in pairs])

    def grey(cell: CellResult) -> AtLevel:
        return cell.under(epsilon).levels[Knowledge.GREY_BOX]

    def white(cell: CellResult) -> Measured:
        return cell.under(epsilon).levels[Knowledge.WHITE_BOX].worst

    measures: dict[str, Callable[[CellResult], Measured]] = {
        "clean": lambda cell: cell.clean,
        "fgsm": lambda cell: grey(cell).fgsm,
        "pgd": lambda cell: grey(cell).pgd,
        "white_box": white,
    }
    return [
        AblationRow(
            loss=first.loss or "",
            budget=f"{first.profile}: {first.train_images} images, {first.denoiser_epochs} epochs",
            seeds=len(pairs),
            pixels_alone={
                name: estimate([of(b) for _, b in pairs]).mean for name, of in measures.items()
            },
            **{name: compared(of) for name, of in measures.items()},
        )
    ]


def _comparable(cell: CellResult) -> tuple[int, str, str]:
    return cell.seed, cell.profile, cell.index_digest
