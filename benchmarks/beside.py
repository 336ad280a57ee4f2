"""A model beside its own classifier without the denoiser: what the denoiser adds, white-box.

    python -m benchmarks.beside models/mnist-robust-online

Both are attacked for themselves, on the same images, by the same attacks, through everything; the
worst case per image counts. The model's card then shows both. A white-box attack runs on what the
ones before it left, so its row is what is left after it.
"""

import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.common import cell, markdown, parser_of
from fend.attacks import APGD, FGSM, PGD, Gradient, Objective, Square
from fend.audit import AuditJob, AuditSpec, Report, audit_report
from fend.bundles import annotate, load_bundle, read_manifest, save_bundle
from fend.threat import Knowledge, ThreatModel
from training.card import model_card

ATTACKS = (
    FGSM(),
    PGD(steps=100, random_start=False),
    APGD(steps=100),
    PGD(steps=100, objective=Objective(loss="feature_distance")),
    PGD(steps=100, gradient=Gradient(denoiser="identity")),
    APGD(steps=50, targets=9, objective=Objective(loss="dlr")),
    Square(queries=2_000),
)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--epsilon", type=float, default=0.2)
    options = parser.parse_args()
    alone, defended = audit_both(options.bundle, options.samples, options.epsilon, options.data_dir)
    tell_the_card(options.bundle, alone, defended)
    print(table(alone, defended))


def audit_both(
    bundle_dir: Path, samples: int, epsilon: float, data_dir: Path
) -> tuple[Report, Report]:
    """The reports of the classifier alone and of the whole."""
    name = read_manifest(bundle_dir).name
    spec = AuditSpec(
        model=name,
        samples=samples,
        threat=ThreatModel(norm="linf", epsilon=epsilon),
        knowledge=(Knowledge.WHITE_BOX, Knowledge.QUERY),  # Square needs no gradient
        attacks=ATTACKS,
        cascade=True,
        sanity_samples=100,
        examples=0,
        shard_size=50,
    )
    with tempfile.TemporaryDirectory() as folder:
        bare_dir = without_denoiser(bundle_dir, Path(folder) / name)
        alone, defended = (
            audit_report(AuditJob(spec, place, data_dir)) for place in (bare_dir, bundle_dir)
        )
        return alone, defended


def without_denoiser(bundle_dir: Path, place: Path) -> Path:
    """The bundle with the identity in the denoiser's place, written to `place`."""
    bundle = load_bundle(bundle_dir)
    content = bundle.manifest.content
    classifier = content.classifier
    save_bundle(
        place,
        name=bundle.manifest.name,
        input_spec=content.input,
        labels=bundle.labels,
        denoiser=("identity", {}, nn.Identity()),
        classifier=(classifier.architecture, classifier.config, bundle.defence.classifier),
        suspicion=content.suspicion,
        about={},
        card="",
    )
    return place


def table(alone: Report, defended: Report) -> str:
    """Markdown: a row an attack."""
    title = f"white-box, epsilon {alone.threat.epsilon:g}, {alone.identity.n} images, %"
    rows = [
        [title, "classifier alone", "behind its denoiser"],
        ["clean", cell(alone.clean.defended), cell(defended.clean.defended)],
    ]
    for one, other in zip(alone.lines, defended.lines, strict=True):
        rows.append([one.title, cell(one.defended), cell(other.defended)])
    worst = (alone.worst_case, defended.worst_case)
    rows.append(["**worst case per image**", *(f"**{cell(share)}**" for share in worst)])
    gain = 100 * (worst[1].accuracy - worst[0].accuracy)
    least = 100 * (worst[1].low - worst[0].high)
    return "\n".join(
        [
            markdown(rows),
            "",
            f"The denoiser adds {gain:.1f} points (from one interval to the other: {least:.1f}).",
            "",
            f"Alone: {alone.verdict}",
            f"Behind the denoiser: {defended.verdict}",
        ]
    )


def tell_the_card(bundle_dir: Path, alone: Report, defended: Report) -> None:
    """Say it in the bundle's manifest and card."""
    about: dict[str, Any] = dict(read_manifest(bundle_dir).about)
    about["beside"] = {
        "dataset": defended.identity.dataset,
        "images": defended.identity.n,
        "epsilon": defended.threat.epsilon,
        "attacks": [line.title for line in defended.lines],
        "rows": {
            "clean": [alone.clean.defended.accuracy, defended.clean.defended.accuracy],
            "white-box worst case per image": [
                alone.worst_case.accuracy,
                defended.worst_case.accuracy,
            ],
        },
    }
    annotate(bundle_dir, about, model_card(read_manifest(bundle_dir).name, about))


if __name__ == "__main__":
    main()
