"""The README's table: what every shipped model withstands.

    python -m benchmarks.table

Runs two audits of each model: the preset `paper`, the paper's attacks over the whole test set, and
`standard`, many more attacks on 1,000 images at every level of knowledge. Keeps the reports in
benchmarks/reports (a report of the same model version is not made again), writes what was measured
into the model cards, and prints the table and how long the audits took.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import cell, markdown, parser_of
from fend.audit import AuditDocument, Report
from fend.bundles import annotate, read_manifest
from fend.threat import Knowledge
from training.card import model_card

REPORTS = Path("benchmarks/reports")
FORMAT = Report.model_fields["format"].default
PAPER_SAYS = {"clean": "-", "fgsm": "92.1", "pgd": "83.0"}
"""Table 1 of the paper, row OURS. It gives no clean accuracy and no white-box result."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", default=["mnist-paper", "mnist"])
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    REPORTS.mkdir(exist_ok=True)
    reports, standard = [], []
    for name in options.models:
        folder = options.models_dir / name
        made = [_report(folder, preset, options) for preset in ("paper", "standard")]
        _tell_the_card(folder, *(document.result for document in made))
        reports.append(made[0].result)
        standard.append(made[1].result)
        times = ", ".join(f"{document.timing.wall_time_s:.0f} s" for document in made)
        print(f"{name}: `paper` and `standard` took {times}\n")
    print(table(reports, standard))


def table(reports: list[Report], standard: list[Report]) -> str:
    """Markdown: a row an attack, a column a model, and what the paper says."""
    first = reports[0]
    head = ["accuracy, %", "paper says", *(f"`{r.identity.model}`" for r in reports)]
    rows = [
        ["clean", PAPER_SAYS["clean"], *(cell(r.clean.defended) for r in reports)],
        ["clean, no denoiser", "99.5", *(cell(r.clean.undefended) for r in reports)],
    ]
    for number, line in enumerate(first.lines):
        grey = line.knowledge is Knowledge.GREY_BOX
        says = PAPER_SAYS.get(line.attack.name, "-") if grey else "-"
        title = f"{line.title}, {'grey-box' if grey else '**white-box**'}"
        rows.append([title, says, *(cell(r.lines[number].defended) for r in reports)])
        if grey:
            says = {"fgsm": "22.1", "pgd": "16.1"}.get(line.attack.name, "-")
            cells = [cell(r.lines[number].undefended) for r in reports]
            rows.append([f"{line.title}, no denoiser", says, *cells])
    rows.append(["worst case of these per image", "-", *(cell(r.worst_case) for r in reports)])
    images = f"{standard[0].identity.n:,} images"
    for knowledge in Knowledge:
        cells = [cell(r.worst_case_by_knowledge[knowledge]) for r in standard]
        rows.append([f"`standard`, {images}: {knowledge.value}", "-", *cells])
    cells = [f"**{cell(r.worst_case)}**" for r in standard]
    rows.append([f"**`standard`, {images}: worst case per image**", "-", *cells])
    return markdown([head, *rows])


def _report(folder: Path, preset: str, options: argparse.Namespace) -> AuditDocument:
    path = REPORTS / f"{folder.name}.{preset}.json"
    version = read_manifest(folder).version
    kept = _read(path)
    if kept is not None and kept.result.identity.model_version == version:
        return kept
    with tempfile.TemporaryDirectory() as folder_name:
        made = Path(folder_name) / "report.json"
        subprocess.run(
            [
                str(Path(sys.executable).parent / "fend"), "audit", str(folder), "--preset",
                preset, "--data-dir", str(options.data_dir), "--workers", str(options.workers),
                "--output", str(made),
            ],
            check=True,
        )  # fmt: skip
        document = AuditDocument.model_validate_json(made.read_bytes())
    # No picture of the data set is kept.
    document = document.model_copy(update={"result": document.result.without_pictures()})
    path.write_text(document.model_dump_json(indent=2) + "\n")
    return document


def _read(path: Path) -> AuditDocument | None:
    """The report there; None where there is none, or one of an older format."""
    if not path.is_file():
        return None
    raw = path.read_bytes()
    if json.loads(raw)["result"]["format"] != FORMAT:
        return None
    return AuditDocument.model_validate_json(raw)


def _tell_the_card(folder: Path, report: Report, standard: Report) -> None:
    about = dict(read_manifest(folder).about)
    about["measured"] = {
        "dataset": report.identity.dataset,
        "images": report.identity.n,
        "epsilon": report.threat.epsilon,
        "verdict": standard.verdict,
        "accuracy": {
            "clean": report.clean.defended.accuracy,
            "clean, no denoiser": report.clean.undefended.accuracy,
            **{
                f"{line.title}, {line.knowledge.value}": line.defended.accuracy
                for line in report.lines
            },
            "worst case of these, per image": report.worst_case.accuracy,
            **{
                f"`standard`, {standard.identity.n:,} images, {knowledge.value}": share.accuracy
                for knowledge, share in standard.worst_case_by_knowledge.items()
            },
        },
    }
    annotate(folder, about, model_card(folder.name, about))


if __name__ == "__main__":
    main()
