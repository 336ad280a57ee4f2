"""The paper's Figures 1 to 3, of our own models.

`adversarial-*.png` has rows of clean images, of adversarial ones that the classifier all takes for
one class, and of what the denoiser makes of them. `features-*.png` has one image in these three
states, and the classifier's first feature maps of it: noise that is hard to see in the image is
plain there.

They show images of the data set, so they belong to the output folder and in no repository.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fend.attacks import PGD, Predict, attack
from fend.bundles import MANIFEST, load_bundle
from fend.datasets import ImageSet, load
from fend.images import encode_png
from fend.threat import ThreatModel
from reproduction.cells import EPSILONS, Cell

MAPS = 8
"""Feature maps in a row."""
SCALE = 4
"""Screen pixels to one of the image."""
TARGETS = {"mnist": 0, "cifar10-grey": 9, "cifar10": 9}
"""What every image is made to look like to the classifier: a 0, or a truck."""


def draw_pictures(cell: Cell, bundle_dir: Path, data_dir: Path | None, folder: Path) -> list[Path]:
    """The pictures of one cell that has been trained; [] where its bundle is not there."""
    if not (bundle_dir / MANIFEST).is_file():
        return []
    bundle = load_bundle(bundle_dir)
    clean, labels = _one_of_each_class(load(cell.recipe.data.test, data_dir))
    adversarial = _all_as(TARGETS[cell.data], bundle.defence.classifier, clean, labels, cell)
    with torch.no_grad():
        denoised = bundle.defence.denoiser(adversarial).clamp(0, 1)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{cell.data}-{cell.defence}.png"
    adversarial_path, maps_path = folder / f"adversarial-{name}", folder / f"features-{name}"
    _save(_grid([clean, adversarial, denoised]), adversarial_path)
    shown = [pixels[-1:] for pixels in (clean, adversarial, denoised)]
    _save(_grid(_with_maps(bundle.defence.classifier, shown)), maps_path)
    return [adversarial_path, maps_path]


def _one_of_each_class(images: ImageSet) -> tuple[Tensor, Tensor]:
    """The first image of each class, (classes,C,H,W), and its label."""
    first = [int((images.labels == k).nonzero()[0]) for k in range(len(images.label_names))]
    return images.pixels(torch.tensor(first)), images.labels[first]


def _all_as(target: int, classifier: Predict, clean: Tensor, labels: Tensor, cell: Cell) -> Tensor:
    """PGD-10 that makes the classifier see one class everywhere, as under the paper's figures."""

    def backwards(images: Tensor) -> Tensor:
        return -classifier(images)

    # Away from the class with the logits turned round is towards it.
    attacker = PGD(steps=10, early_stop=False)
    threat = ThreatModel(norm="linf", epsilon=EPSILONS[cell.data][0])
    return attack(attacker, backwards, clean, torch.full_like(labels, target), threat).adversarial


def _with_maps(classifier: nn.Module, rows: list[Tensor]) -> list[Tensor]:
    """Each image (1,C,H,W) followed by its first feature maps, all rows on one scale."""
    layer = next(part for part in classifier.modules() if isinstance(part, nn.Conv2d))
    maps = [_after(layer, classifier, image)[:MAPS] for image in rows]
    largest = torch.cat(maps).amax().clamp_min(1e-6)
    shown = [
        F.interpolate(item.unsqueeze(1) / largest, size=rows[0].shape[-2:]).expand(
            -1, rows[0].shape[1], -1, -1
        )
        for item in maps
    ]
    return [torch.cat([image, item]) for image, item in zip(rows, shown, strict=True)]


@torch.no_grad()
def _after(layer: nn.Module, classifier: nn.Module, image: Tensor) -> Tensor:
    """What `layer` answers, after a ReLU: (maps,H,W)."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    classifier(image)
    hook.remove()
    return seen[0][0].relu()


def _grid(rows: list[Tensor]) -> Tensor:
    """Rows of images (N,C,H,W) as one picture (C,H,W), a grey line around each."""
    strips = [torch.cat(list(F.pad(row, (1, 1, 1, 1), value=0.5)), dim=2) for row in rows]
    return torch.cat(strips, dim=1)


def _save(picture: Tensor, path: Path) -> None:
    large = picture.repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)
    path.write_bytes(encode_png(large))
