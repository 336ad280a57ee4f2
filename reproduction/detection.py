"""Feature squeezing and noise reduction as their authors use them: to tell an adversarial image.

The attacker knows the classifier and not the detector; one who knows it gets past it.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fend.attacks import attack
from fend.audit.plan import line_at
from fend.bundles import Bundle
from fend.datasets import ImageSet
from fend.threat import Knowledge, ThreatModel
from reproduction.attacks import paper_attacks
from reproduction.cells import Cell
from reproduction.detectors import class_changes, squeezing_scores, threshold_at
from reproduction.result import Detection, Measured

Flags = Callable[[Tensor], Tensor]
"""Images (N,C,H,W) to bool (N,)."""


def detections(
    cell: Cell, bundle: Bundle, held_out: ImageSet, test: ImageSet, device: torch.device
) -> tuple[Detection, ...]:
    """What the detector of the cell's defence finds at its first epsilon; () for other defences.

    `test` holds the images to attack.
    """
    detectors = _detectors(bundle, held_out.pixels(slice(None)).to(device))
    if not detectors:
        return ()
    classifier, epsilon = bundle.defence.classifier, cell.epsilons[0]
    clean, labels = test.pixels(slice(None)).to(device), test.labels.to(device)
    fooling: dict[str, Tensor] = {}
    for attacker in paper_attacks(cell.profile, epsilon):
        threat = ThreatModel(norm="linf", epsilon=epsilon)
        whole = line_at(attacker, Knowledge.GREY_BOX).attack
        result = attack(whole, classifier, clean, labels, threat, seed=cell.seed)
        fooling[attacker.name] = result.adversarial[result.fooled]
    return tuple(
        Detection(
            detector=name,
            threshold=threshold,
            false_positives=_flagged(flags, clean),
            detected={attack: _flagged(flags, images) for attack, images in fooling.items()},
        )
        for name, (flags, threshold) in detectors.items()
    )


def _detectors(bundle: Bundle, held_out: Tensor) -> Mapping[str, tuple[Flags, float | None]]:
    """By name: what flags an image, and its threshold."""
    denoiser, classifier = bundle.defence.denoiser, bundle.defence.classifier
    architecture = bundle.manifest.content.denoiser.architecture
    if architecture == "sequence":
        squeezers = list(denoiser.children())
        return {"feature squeezing": _scored(classifier, squeezers, held_out)}
    if architecture == "noise-reduction":
        return {
            "noise reduction: the class changes": (
                lambda images: class_changes(classifier, images, denoiser), None,
            ),
            "noise reduction: the probabilities move": _scored(classifier, [denoiser], held_out),
        }  # fmt: skip
    return {}


def _scored(
    classifier: nn.Module, squeezers: list[nn.Module], held_out: Tensor
) -> tuple[Flags, float]:
    threshold = threshold_at(squeezing_scores(classifier, held_out, squeezers).cpu())
    return lambda images: squeezing_scores(classifier, images, squeezers) > threshold, threshold


def _flagged(flags: Flags, images: Tensor) -> Measured:
    count = int(flags(images).sum()) if len(images) else 0
    return Measured(correct=count, n=len(images))
