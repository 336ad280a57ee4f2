"""What is proved of a model, and not only unbroken so far.

    python -m benchmarks.certified mnist-smoothing --images 500
    python -m benchmarks.certified mnist-ibp

A model with a sigma is certified by randomised smoothing: the share of images that are labelled
right, with a certified L2 radius of at least so much, with its denoiser and without. Of any other
model interval bounds are computed: the share of images that are labelled right, provably, in the
whole L-inf ball. Attacked accuracy stands beside that in a column of its own: it is measured, not
proved.
"""

import time

import torch

from benchmarks.common import counted, markdown, parser_of
from fend.attacks import PGD, attack
from fend.bundles import Bundle, load_bundle
from fend.bundles.versions import find_bundle
from fend.datasets import ImageSet, load
from fend.guarantees.intervals import Bounds, verified
from fend.guarantees.smoothing import ALPHA, SAMPLES, certify, sigma_of
from fend.threat import ThreatModel, sample_seeds

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
EPSILONS = (0.1, 0.2, 0.3)
PGD_STEPS = 40
BATCH = 250


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("model", help="a bundle: its folder, or its name in --models-dir")
    parser.add_argument("--images", type=int, default=500, help="test images, chosen by the seed")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="noisy copies of each image")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder, manifest = find_bundle(options.model, options.models_dir)
    bundle = load_bundle(folder)
    test = load("mnist:test", options.data_dir, manifest.content.input)
    images = test.subset(test.sample(options.images, options.seed).sort().values)
    started_s = time.perf_counter()
    print(f"{manifest.name} {manifest.version}, {len(images):,} images of {test.name}\n")
    if manifest.content.smoothing is not None:
        print(smoothed_table(bundle, images, options.samples, options.seed))
    else:
        print(bounded_table(bundle, images))
    print(f"\n{time.perf_counter() - started_s:.0f} s")


def smoothed_table(bundle: Bundle, images: ImageSet, samples: int, seed: int) -> str:
    """Certified accuracy against the L2 radius, with the denoiser and without: Markdown."""
    sigma, labels, n = sigma_of(bundle.manifest), images.labels.tolist(), len(images)
    seeds = sample_seeds(seed, range(n), "certified")
    pixels = images.pixels(slice(None))
    columns = [
        list(zip(certify(model, pixels, seeds, sigma=sigma, samples=samples), labels, strict=True))
        for model in (bundle.defence, bundle.defence.classifier)
    ]
    rows = [[f"certified, % (sigma {sigma:g}, {samples:,} samples, alpha {ALPHA:g})",
             f"`{bundle.manifest.name}`", "no denoiser"]]  # fmt: skip
    for radius in RADII:
        counts = [sum(c.index == label and c.radius >= radius for c, label in column)
                  for column in columns]  # fmt: skip
        what = f"right, radius {radius:g} or more" if radius else "right, any radius"
        rows.append([what, *(counted(count, n) for count in counts)])
    abstained = [sum(c.abstained for c, _ in column) for column in columns]
    return markdown([*rows, ["abstained", *(counted(count, n) for count in abstained)]])


def bounded_table(bundle: Bundle, images: ImageSet) -> str:
    """Verified accuracy against the L-inf epsilon: Markdown.

    Raises:
        Invalid (`not_bounded`): the networks do something that cannot be bounded.
    """
    defence, bounds, n = bundle.defence, Bounds(bundle.defence), len(images)
    batches = [
        (images.pixels(indices), images.labels[indices]) for indices in torch.arange(n).split(BATCH)
    ]
    clean = sum(int((defence(p).argmax(1) == labels).sum()) for p, labels in batches)
    rows = [["%, L-inf", "verified (interval bounds)", f"unbroken by PGD-{PGD_STEPS}"]]
    rows.append(["clean", "-", counted(clean, n)])
    for epsilon in EPSILONS:
        threat = ThreatModel(norm="linf", epsilon=epsilon)
        proved = left = 0
        for pixels, labels in batches:
            proved += int(verified(bounds, pixels, labels, epsilon).sum())
            attacked = attack(PGD(steps=PGD_STEPS), defence, pixels, labels, threat)
            left += int((~attacked.fooled).sum())
        rows.append([f"epsilon {epsilon:g}", counted(proved, n), counted(left, n)])
    return markdown(rows)


if __name__ == "__main__":
    main()
