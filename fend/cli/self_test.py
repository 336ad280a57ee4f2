"""`fend audit self-test`: known-bad models go through the auditor, which has to notice."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fend.audit.report import percent
from fend.audit.spec import spec_invalid
from fend.cli.folders import DATA_DIR, MODELS_DIR, DataDir, ModelsDir

if TYPE_CHECKING:
    from fend.audit.self_test import Control, ControlResult


def self_test(
    model: Annotated[
        str,
        typer.Option(help="Model whose classifier the controls are made of: a folder or a name."),
    ] = "mnist-paper",
    dataset: Annotated[str, typer.Option(help="Name of a data set.")] = "handwritten-digits",
    samples: Annotated[int, typer.Option(min=1, help="Number of images.")] = 100,
    epsilon: Annotated[
        str, typer.Option(help="Epsilon in L-inf, on the pixel scale 0..1: 0.03, or 8/255.")
    ] = "0.2",
    control: Annotated[
        list[str] | None, typer.Option(help="Control to run; repeat for more. Default: all.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes. The numbers stay the same.")] = 1,
    models_dir: ModelsDir = MODELS_DIR,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Audit models that only look robust: does the auditor notice? Ends with 1 if one escapes."""
    from fend.audit.self_test import self_test as run_self_test
    from fend.bundles import MANIFEST

    folder = Path(model) if (Path(model) / MANIFEST).is_file() else models_dir / model
    controls = _chosen(control)
    with Console(stderr=True).status("") as status:
        findings = list(
            run_self_test(
                folder,
                data_dir,
                dataset=dataset,
                samples=samples,
                epsilon=epsilon,
                workers=workers,
                controls=controls,
                on_start=lambda name: status.update(f"Auditing {name}"),
            )
        )
    console = Console()
    console.print(_table(findings))
    for finding in findings:
        if finding.failed_checks:
            failed = "; ".join(finding.failed_checks)
            console.print(f"[bold]{finding.name}[/] failed: {failed}", highlight=False)
    wrong = [finding for finding in findings if not finding.passed]
    for finding in wrong:
        what = "is honest, but was called unreliable" if finding.honest else "escaped"
        console.print(f"{finding.name} {what}. {finding.report.verdict}", highlight=False)
    if wrong:
        raise typer.Exit(1)
    console.print("Every control was exposed, and no honest model was accused.", highlight=False)


def _chosen(names: list[str] | None) -> "list[Control]":
    from fend.audit.self_test import CONTROLS, UNSECURED

    known = {control.name: control for control in (UNSECURED, *CONTROLS)}
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise spec_invalid(f"--control: {unknown[0]!r} is none of: {', '.join(known)}")
    return [known[name] for name in names or known]


def _table(findings: "list[ControlResult]") -> Table:
    table = Table(
        "Model", "What it is", "Clean", "Reported", "True", "Reliable", "",
        caption="Reported: worst case of the audit. True: under an attacker who knows the trick.",
    )  # fmt: skip
    for finding in findings:
        report, true = finding.report, finding.true_accuracy
        table.add_row(
            finding.name,
            finding.about,
            percent(report.clean.defended.accuracy),
            percent(report.worst_case.accuracy),
            "-" if true is None else percent(true),
            "yes" if report.reliable else "no",
            _outcome(finding),
        )
    return table


def _outcome(finding: "ControlResult") -> str:
    if finding.honest:
        return "honest" if finding.passed else "[red]accused[/]"
    return "exposed" if finding.passed else "[red]escaped[/]"
