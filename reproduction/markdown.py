"""A table as Markdown."""

from collections.abc import Sequence

from fend.threat import Knowledge
from reproduction.estimates import Estimate
from reproduction.profiles import budget_of
from reproduction.tables import AblationRow, DataTable, DetectorRow, Row

_LEVELS = {
    Knowledge.BLACK_BOX: "black-box",
    Knowledge.GREY_BOX: "grey-box",
    Knowledge.GREY_BOX_AWARE: "grey-box, aware",
    Knowledge.WHITE_BOX: "white-box",
}


def to_markdown(table: DataTable) -> str:
    """The whole table, with its footnotes and flags."""
    parts = [
        f"# {table.data} at epsilon {in_words(table.epsilon)} (L-inf)",
        "Accuracy in percent: the mean over seeds, ± the standard deviation over seeds where there "
        "is more than one, and in brackets the 95 % interval over images and seeds (with one seed: "
        "over images only). Written by `fend reproduce`.",
        "## As in the paper",
        _paper_table(table.rows),
        _notes(table.rows),
        "## By what the attacker knows",
        "FGSM / PGD; the last column is the worst case per image of all white-box attacks.",
        _levels_table(table.rows),
        _flags(table.rows),
    ]
    if table.detectors:
        parts += ["## Detectors", _DETECTORS, _detectors(table.detectors)]
    if table.ablation:
        parts += ["## What the feature loss adds", _ABLATION, _ablation(table.ablation)]
    return "\n\n".join(part for part in parts if part) + "\n"


_DETECTORS = (
    "Thresholds leave at most 5 % of held-out training images flagged; false positives are those "
    "of clean test images. Found: of the images that fool the classifier. The attacker does not "
    "know of the detector."
)
_ABLATION = (
    "Points that the feature terms of equation 4 add to pixels alone: equal network, data and "
    "epochs, the same seeds and images. In brackets the 95 % interval; bold where it leaves out 0."
)


def in_words(epsilon: float) -> str:
    """0.2, or 8/255."""
    in_255 = epsilon * 255
    return f"{epsilon:g}" if epsilon == 0.2 else f"{in_255:.0f}/255"


def _paper_table(rows: Sequence[Row]) -> str:
    notes = [row.defence for row in rows if row.note]
    lines = [
        ["attack", "defence", "paper", "ours, grey-box", "clean", "white-box", "profile", "seeds"]
    ]
    for row in rows:
        mark = f" [{notes.index(row.defence) + 1}]" if row.note else ""
        flagged = " ⚠" if row.flags else ""
        for attack in ("fgsm", "pgd"):
            head = [
                attack.upper(), row.title + flagged,
                f"{row.paper[attack]:.1f}{mark}" if attack in row.paper else "-",
            ]  # fmt: skip
            if row.made is None or row.clean is None:
                lines.append([*head, "not run", "", "", "", ""])
                continue
            lines.append(
                [
                    *head, _cell(row.levels[Knowledge.GREY_BOX][attack]), _cell(row.clean),
                    _cell(row.levels[Knowledge.WHITE_BOX]["worst"]), row.made.profile,
                    ", ".join(str(seed) for seed in row.made.seeds),
                ]
            )  # fmt: skip
    return _lines(lines)


def _notes(rows: Sequence[Row]) -> str:
    texts = [row.note for row in rows if row.note]
    budgets = {row.made.profile for row in rows if row.made}
    said = [f"[{number}] {text}" for number, text in enumerate(texts, 1)]
    said += [f"Profile `{name}`: {budget_of(name).summary}" for name in sorted(budgets)]
    return "\n\n".join(said)


def _levels_table(rows: Sequence[Row]) -> str:
    lines = [["defence", "images, clean", *_LEVELS.values(), "white-box, all", "epsilon 0.5"]]
    for row in rows:
        if row.clean is None or row.at_half is None:
            continue
        cells = [row.title + (" ⚠" if row.flags else ""), f"{row.clean.n}, {_short(row.clean)}"]
        for level in _LEVELS:
            at = row.levels.get(level)
            cells.append(f"{_short(at['fgsm'])} / {_short(at['pgd'])}" if at else "-")
        worst = row.levels[Knowledge.WHITE_BOX]["worst"]
        lines.append([*cells, f"**{_short(worst)}**", _short(row.at_half)])
    return _lines(lines) if len(lines) > 1 else "Nothing was run yet."


def _flags(rows: Sequence[Row]) -> str:
    flagged = [f"- {row.title}: {text}" for row in rows for text in row.flags]
    checked = (
        "Checked on every cell: white-box ≤ grey-box ≤ black-box and PGD ≤ FGSM (McNemar's test "
        "on the same images, p < 0.001), epsilon 0 equals clean, epsilon 0.5 near zero."
    )
    if not flagged:
        return f"{checked} Nothing is flagged."
    return f"{checked} Flagged (⚠):\n\n" + "\n".join(flagged)


def _detectors(rows: Sequence[DetectorRow]) -> str:
    lines = [["detector", "false positives", "FGSM found", "PGD found", "profile"]]
    for row in rows:
        found = [_cell(row.detected[name]) for name in ("fgsm", "pgd")]
        lines.append([row.detector, _cell(row.false_positives), *found, row.profile])
    return _lines(lines)


def _ablation(rows: Sequence[AblationRow]) -> str:
    lines = [
        ["loss", "clean", "FGSM, grey-box", "PGD, grey-box", "white-box, all", "budget", "seeds"]
    ]
    for row in rows:
        pairs = {"clean": row.clean, "fgsm": row.fgsm, "pgd": row.pgd, "white_box": row.white_box}
        cells = [
            f"{_difference(value)} on {100 * row.pixels_alone[name]:.1f}"
            for name, value in pairs.items()
        ]
        lines.append([row.loss, *cells, row.budget, str(row.seeds)])
    return _lines(lines)


def _cell(value: Estimate) -> str:
    spread = "" if value.spread is None else f" ± {100 * value.spread:.1f}"
    return f"{_short(value)}{spread} ({100 * value.low:.1f} to {100 * value.high:.1f})"


def _short(value: Estimate) -> str:
    return f"{100 * value.mean:.1f}"


def _difference(value: Estimate) -> str:
    text = f"{100 * value.mean:+.1f} ({100 * value.low:+.1f} to {100 * value.high:+.1f})"
    return f"**{text}**" if value.low > 0 or value.high < 0 else text


def _lines(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rest))
