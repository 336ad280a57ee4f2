"""The README's picture: drawn digits, attacked, cleaned, with the answers under them.

    python -m benchmarks.picture --output docs/images/attack.png

The digits of docs/images/digits, drawn for this page and unknown to the model: no image of a data
set stands in the repository. The attack is PGD-100 on the bare classifier (grey-box), as in the
paper's tables.
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import torch
from torch import Tensor

from fend.attacks import PGD, attack
from fend.bundle import Bundle, load_bundle
from fend.images import decode
from fend.pipeline import Answers
from fend.threat import ThreatModel

mpl.use("Agg")

DIGITS = Path("docs/images/digits")
COLUMNS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("models/mnist"))
    parser.add_argument("--epsilon", type=float, default=0.2)
    parser.add_argument("--output", type=Path, default=Path("docs/images/attack.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle = load_bundle(options.model)
    clean, labels = _digits(bundle)
    threat = ThreatModel(epsilon=options.epsilon)
    attacker = PGD(steps=100, step_size=options.epsilon / 2, early_stop=False)
    adversarial = attack(attacker, bundle.defence.classifier, clean, labels, threat).adversarial
    with torch.inference_mode():
        answers = bundle.defence.answer(adversarial)
    _draw(bundle, clean, adversarial, answers, labels, options.epsilon, options.output)
    print(f"wrote {options.output}")


def _digits(bundle: Bundle) -> tuple[Tensor, Tensor]:
    """The drawn digits as the service would read them, and what they are."""
    spec = bundle.manifest.content.input
    pixels = [decode((DIGITS / f"{n}.png").read_bytes(), spec).pixels for n in range(COLUMNS)]
    return torch.stack(pixels), torch.arange(COLUMNS)


def _draw(
    bundle: Bundle,
    clean: Tensor,
    adversarial: Tensor,
    answers: Answers,
    labels: Tensor,
    epsilon: float,
    output: Path,
) -> None:
    from matplotlib import pyplot

    bare = answers.undefended_logits.argmax(1)
    fend = answers.logits.argmax(1)
    rows = [
        ("clean", clean, 0.0, 1.0, "gray", [f"is {n}" for n in _names(bundle, labels)]),
        (
            "adversarial",
            adversarial,
            0.0,
            1.0,
            "gray",
            [f"bare: {n}" for n in _names(bundle, bare)],
        ),
        ("perturbation", adversarial - clean, -epsilon, epsilon, "RdBu", [""] * COLUMNS),
        (
            "denoised",
            answers.denoised,
            0.0,
            1.0,
            "gray",
            [f"Fend: {n}" for n in _names(bundle, fend)],
        ),
    ]
    figure, axes = pyplot.subplots(len(rows), COLUMNS, figsize=(COLUMNS * 1.1, len(rows) * 1.32))
    for row, (title, images, low, high, colours, captions) in enumerate(rows):
        for column in range(COLUMNS):
            axis = axes[row, column]
            axis.imshow(images[column, 0], cmap=colours, vmin=low, vmax=high)
            axis.set_xticks([])
            axis.set_yticks([])
            wrong = row in (1, 3) and (bare, fend)[row == 3][column] != labels[column]
            axis.set_xlabel(captions[column], fontsize=9, color="#c62828" if wrong else "#1b5e20")
        axes[row, 0].set_ylabel(title, fontsize=9)
    figure.suptitle(f"PGD-100 on the bare classifier, epsilon {epsilon} (grey-box)", fontsize=10)
    figure.tight_layout(pad=0.4)
    figure.savefig(output, dpi=110)


def _names(bundle: Bundle, indices: Tensor) -> list[str]:
    return [bundle.labels[index] for index in indices.tolist()]


if __name__ == "__main__":
    main()
