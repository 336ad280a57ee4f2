"""What a bundle withstands when the attacker knows everything, at each epsilon, told to its card.

    python -m benchmarks.withstands models/signs --dataset gtsrb:test --epsilons 4/255 8/255

An attack runs on the images that the ones before it left, so its row is what is left after it.
"""

from pathlib import Path
from typing import Any

from benchmarks.common import cell, markdown, parser_of
from fend.attacks import APGD, PGD, Gradient, Objective
from fend.audit import AuditJob, AuditSpec, Report, audit_report, executor_for
from fend.bundles import annotate, load_bundle, read_manifest
from fend.datasets import load
from fend.threat import Knowledge, ThreatModel, as_number
from training.card import model_card
from training.evaluate import accuracy

ATTACKS = (
    PGD(steps=50, random_start=False),
    APGD(steps=50),
    APGD(steps=50, targets=3, objective=Objective(loss="dlr")),
    PGD(steps=50, objective=Objective(loss="feature_distance")),
    PGD(steps=50, gradient=Gradient(denoiser="identity")),
)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--dataset", default="mnist:test")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--epsilons", nargs="+", default=["0.2"])
    parser.add_argument("--workers", type=int, default=1, help="Processes.")
    options = parser.parse_args()
    name = read_manifest(options.bundle).name
    reports = {}
    for epsilon in options.epsilons:
        spec = AuditSpec(
            model=name,
            dataset=options.dataset,
            samples=options.samples,
            threat=ThreatModel(norm="linf", epsilon=as_number(epsilon)),
            knowledge=(Knowledge.WHITE_BOX,),
            attacks=ATTACKS,
            cascade=True,
            sanity_samples=50,
            examples=0,
            shard_size=50,
        )
        job = AuditJob(spec, options.bundle, options.data_dir)
        reports[epsilon] = audit_report(job, executor_for(options.workers))
        print(f"{epsilon}: {reports[epsilon].verdict}", flush=True)
    images = load(options.dataset, options.data_dir)
    share = accuracy(load_bundle(options.bundle).defence, images)
    print(f"clean, all {len(images):,} images: {100 * share:.2f} %")
    tell_the_card(options.bundle, reports, {f"clean, all {len(images):,} images": share})
    print(table(reports))


def table(reports: dict[str, Report]) -> str:
    """Markdown: a row an attack, a column an epsilon."""
    first = next(iter(reports.values()))
    columns = list(reports.values())
    rows = [
        [f"white-box, {first.identity.n:,} images, %", *reports],
        ["clean", *(cell(report.clean.defended) for report in columns)],
        ["clean, no denoiser", *(cell(report.clean.undefended) for report in columns)],
    ]
    for number, line in enumerate(first.lines):
        rows.append([line.title, *(cell(report.lines[number].defended) for report in columns)])
    worst = (f"**{cell(report.worst_case)}**" for report in columns)
    return markdown([*rows, ["**worst case per image**", *worst]])


def tell_the_card(bundle_dir: Path, reports: dict[str, Report], all_of: dict[str, float]) -> None:
    """Say it in the bundle's manifest and card."""
    first = next(iter(reports.values()))
    about: dict[str, Any] = dict(read_manifest(bundle_dir).about)
    about["measured"] = {
        "dataset": first.identity.dataset,
        "images": first.identity.n,
        "epsilon": " and ".join(reports),
        "verdict": " ".join(report.verdict for report in reports.values()),
        "accuracy": {
            **all_of,
            "clean": first.clean.defended.accuracy,
            "clean, no denoiser": first.clean.undefended.accuracy,
            **{
                f"white-box worst case per image, {epsilon}": report.worst_case.accuracy
                for epsilon, report in reports.items()
            },
        },
    }
    annotate(bundle_dir, about, model_card(read_manifest(bundle_dir).name, about))


if __name__ == "__main__":
    main()
