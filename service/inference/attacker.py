"""One image attacked at once, to be looked at: for the page at `/` and for demonstrations.

An audit measures a model; this shows what an attack is. The cost is bounded by its steps and by the
caller's patience.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fend.attacks import APGD, FGSM, PGD, Attack, attack
from fend.bundles import Bundle
from fend.errors import Invalid
from fend.pipeline import Defence
from fend.threat import ThreatModel
from service.inference.background import BackgroundThread, Check
from service.observe.metrics import Metrics
from service.settings import Settings

CAPACITY = 4
"""Attacks that may wait for their turn."""
TIMED_STEPS = 3
"""Steps after which it is known how long the others take."""


@dataclass(frozen=True)
class Look:
    """Both answers to the image as it is while an attack changes it."""

    passes: int
    """Number of times that the attack has asked the model so far."""
    probabilities: list[float]
    undefended_probabilities: list[float]


@dataclass(frozen=True, eq=False)
class Attacked:
    """What an attack made of one image."""

    clean: Look
    after: Look
    along: list[Look]
    """The answers while it worked, oldest first. The last one may differ from `after`: an attack
    may return an earlier image."""
    label: int
    """The class that the attack drives away from."""
    image: Tensor
    """float32 (C,H,W) in [0, 1], within epsilon of the clean one."""
    denoised: Tensor
    """What the classifier sees of it: (C,H,W), close to [0, 1]."""
    distance: float
    """In the threat model's norm."""
    forward_passes: int
    backward_passes: int


class Attacker:
    """Attacks one image at a time; used from one event loop."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        self._thread = BackgroundThread(
            "attack",
            capacity=CAPACITY,
            priority=settings.worker_priority,
            torch_threads=settings.torch_threads,
        )

    async def close(self) -> None:
        """Finish what is worked on, and end the thread."""
        await self._thread.close()

    def check_room(self) -> None:
        """Raises Busy where no attack more would be taken on."""
        self._thread.check_room()

    def admission(self) -> AbstractContextManager[None]:
        """A place among the attacks in flight; raises Busy where there is none."""
        return self._thread.admission()

    async def attack(
        self,
        bundle: Bundle,
        pixels: Tensor,
        attacker: Attack,
        threat: ThreatModel,
        deadline_s: float,
        *,
        through_denoiser: bool,
        label: int | None,
        on_look: Callable[[Look], None] = lambda _: None,
    ) -> Attacked:
        """Attack one image (C,H,W).

        `through_denoiser`: white-box, else the gradient is the bare classifier's (grey-box).
        `label` is the true class; None takes the one that the pipeline answers. `on_look` is called
        on the background thread, now and then. `deadline_s` is on the clock of `time.monotonic`.

        Raises:
            Invalid (`attack_too_long`): it would not end before `deadline_s`.
            DeadlineExceeded.
        """

        def work(check: Check) -> Attacked:
            watch = _Watch(attacker, deadline_s, check)
            return _attack(
                bundle.defence, pixels, attacker, threat, through_denoiser, label, on_look, watch
            )

        attacked = await self._thread.run(work, deadline_s)
        self._metrics.inference_compute.labels("attack").observe(self._thread.last_s)
        return attacked


class _Watch:
    """Called between the steps of an attack: ends one that would be given up later anyway."""

    def __init__(self, attacker: Attack, deadline_s: float, check: Check) -> None:
        self._steps = int(getattr(attacker, "steps", 1))
        self._deadline_s = deadline_s
        self._check = check
        self._done = 0
        self._started_s = time.monotonic()

    def __call__(self) -> None:
        self._check()
        if self._done == TIMED_STEPS:
            now_s = time.monotonic()
            step_s = (now_s - self._started_s) / self._done
            left_s = self._deadline_s - now_s
            if left_s < step_s * (self._steps - self._done):
                fitting = max(1, self._done + math.floor(left_s / step_s))
                raise Invalid(
                    f"{self._steps} steps would take about {step_s * self._steps:.2g} s, longer "
                    f"than this request may; ask for {fitting} steps or fewer, or give it longer "
                    "in X-Request-Timeout",
                    code="attack_too_long",
                )
        self._done += 1


def attacker_of(name: str, steps: int) -> Attack:
    """The attack called `name`: fgsm (one step, whatever `steps` says), pgd or apgd."""
    if name == "fgsm":
        return FGSM()
    return PGD(steps=steps) if name == "pgd" else APGD(steps=steps)


def _attack(
    defence: Defence,
    pixels: Tensor,
    attacker: Attack,
    threat: ThreatModel,
    through_denoiser: bool,
    label: int | None,
    on_look: Callable[[Look], None],
    check: Check,
) -> Attacked:
    images = pixels.unsqueeze(0).to(next(defence.parameters()).device)
    clean = _look(defence, images, 0)
    if label is None:
        label = max(range(len(clean.probabilities)), key=clean.probabilities.__getitem__)
    along: list[Look] = []

    def looked(look: Look) -> None:
        along.append(look)
        on_look(look)

    attacked = defence if through_denoiser else defence.classifier
    watched = _Watched(attacked, defence, looked)
    result = attack(
        attacker, watched, images, torch.tensor([label], device=images.device), threat, stop=check
    )
    with torch.no_grad():
        denoised = defence.denoiser(result.adversarial)
    return Attacked(
        clean,
        _look(defence, result.adversarial, watched.passes),
        along,
        label,
        result.adversarial[0].cpu(),
        denoised[0].cpu(),
        float(result.distance[0]),
        result.forward_passes,
        result.backward_passes,
    )


@torch.no_grad()
def _look(defence: Defence, images: Tensor, passes: int) -> Look:
    answers = defence.answer(images)
    return Look(
        passes,
        answers.logits[0].softmax(0).tolist(),
        answers.undefended_logits[0].softmax(0).tolist(),
    )


class _Watched(nn.Module):
    """A model that also tells what the whole pipeline says of what it is asked.

    Not of all that: of every pass at first, then ever more rarely, or looking would cost more than
    the attack.
    """

    def __init__(self, model: nn.Module, defence: Defence, on_look: Callable[[Look], None]) -> None:
        super().__init__()
        self._model = model
        self._defence = defence
        self._on_look = on_look
        self._next = _rarer()
        self._looks_at = next(self._next)
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to the model's logits (N, classes)."""
        self.passes += 1
        if self.passes >= self._looks_at:
            self._looks_at = next(self._next)
            self._on_look(_look(self._defence, images.detach(), self.passes))
        logits: Tensor = self._model(images)
        return logits


def _rarer() -> Iterator[int]:
    """1, 2, 3, ..., then a tenth later each time: some fifty up to 500."""
    passes = 1
    while True:
        yield passes
        passes += max(1, passes // 10)
