"""What a training will take, by a short trial of its steps."""

import copy
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fend.attacks import PGD
from fend.pipeline import Defence, frozen
from training.evaluate import attacked
from training.loop import StepContext
from training.protect.compare import COMPARED_IMAGES, COMPARED_LEVELS, COMPARED_STEPS
from training.recipe import Recipe
from training.stages.online import online_fit
from training.stages.stage import Context

FEWEST_EPOCHS, MOST_EPOCHS = 3, 60
"""That a limit of time leads to."""
_BREAKS_AFTER = 4
"""Passes of an attack on an image that it breaks, about."""


@dataclass(frozen=True)
class Cost:
    """What a training takes, by a short trial of its steps."""

    image_s: float
    """To learn from an image."""
    pass_s: float
    """Of a pass and its gradient for an image, through both networks."""
    memory_bytes: int
    """At most, so far."""
    compared: int = COMPARED_IMAGES
    """Images of the comparison at the end."""

    def epoch_s(self, recipe: Recipe, images: int) -> float:
        """Of an epoch, with the attack on the held-out images after it."""
        return images * self.image_s + recipe.data.held_out * 12 * self.pass_s

    @property
    def comparison_s(self) -> float:
        """Of `compare`, where nearly all images hold behind the denoiser, and few alone."""
        passes = len(COMPARED_LEVELS) * (COMPARED_STEPS + _BREAKS_AFTER)
        return self.compared * passes * self.pass_s

    def total_s(self, recipe: Recipe, images: int) -> float:
        """Of all that is still to be done."""
        return recipe.denoiser.epochs * self.epoch_s(recipe, images) + self.comparison_s

    def within(self, minutes: float, recipe: Recipe, images: int) -> dict[str, Any]:
        """The epochs, and the images, that take so long."""
        left_s = max(0.0, 60 * minutes - self.comparison_s)
        fixed_s = self.epoch_s(recipe, 0)
        fitting = int((left_s / FEWEST_EPOCHS - fixed_s) / self.image_s)
        if fitting < images:
            limit = min(images, max(recipe.denoiser.batch_size, fitting))
            return {"denoiser": {"epochs": FEWEST_EPOCHS}, "data": {"limit": limit}}
        epochs = min(MOST_EPOCHS, int(left_s / self.epoch_s(recipe, images)))
        return {"denoiser": {"epochs": epochs}}


def cost_of(recipe: Recipe, classifier: nn.Module, context: Context) -> Cost:
    """Try two steps of the recipe, and an attack on a few images."""
    section, splits = recipe.joint or recipe.online, context.splits
    assert section is not None, "it is made from the template"
    network = copy.deepcopy(classifier)
    joint = recipe.joint is not None
    job = online_fit(section, network, context.feature_loss(network), context, joint=joint)
    indices = torch.arange(min(job.batch_size, len(splits.train)))
    step = StepContext(0.5, torch.Generator().manual_seed(0))
    job.module.train()
    for _ in range(2):  # the first one warms up
        begun_s = time.monotonic()
        loss = torch.stack(list(job.loss(indices, step).values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        float(loss.detach())
        image_s = (time.monotonic() - begun_s) / len(indices)
    whole = frozen(job.module if joint else Defence(job.module, network))
    few, steps = torch.arange(min(8, len(splits.held_out))), 3
    attacker = PGD(steps=steps, early_stop=False)
    begun_s = time.monotonic()
    for _, fooled in attacked(attacker, whole, splits.held_out, few, section.adversarial.threat):
        fooled.tolist()
    pass_s = (time.monotonic() - begun_s) / len(few) / (steps + 1)
    return Cost(image_s, pass_s, _most_memory_bytes(context.device))


def _most_memory_bytes(device: torch.device) -> int:
    """What this process has taken so far, at most; 0 where that is not known."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used * (1 if sys.platform == "darwin" else 1024)
