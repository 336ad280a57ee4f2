"""How long an audit will take: the passes that it asks for, and the time of a pass by a trial.

What an attack spares on images that it breaks early is what the trial finds on a few images: they
are attacked white-box, and as many as hold there are taken to hold everywhere.
"""

from collections.abc import Callable

import torch
from torch import nn

from fend.attacks import APGD, PGD, AttackSpec
from fend.audit.plan import Plan
from fend.audit.work.batch import Batch
from fend.audit.work.curve import STEPS as CURVE_STEPS
from fend.audit.work.line import attack_batch
from fend.audit.work.opened import OpenAudit
from fend.audit.work.probes import NOISE_DRAWS, attacks_to_outdo, with_twice_the_steps
from fend.audit.work.shards import CURVE_SAMPLES, shards_of
from fend.threat import Knowledge

TRIED_IMAGES, TRIED_STEPS = 8, 20
BREAKS_AFTER = 4.0
"""Passes of an attack on an image that it breaks, about."""
_JUDGED = 3
"""Passes of a line beside those of its attack."""
_ANSWERS = 20
"""Passes of the probes that attack nothing."""


def estimate_s(opened: OpenAudit, workers: int, clock: Callable[[], float]) -> float:
    """Seconds that `workers` processes need; takes the time of some 200 passes itself."""
    tried = _tried(opened)
    line = opened.plan.line(PGD(steps=TRIED_STEPS))
    result = attack_batch(opened, tried, line, opened.spec.threat, lambda: None)
    holding = 1 - float(result.fooled.float().mean())
    return _total_s(opened, opened.plan, tried, holding, clock) / min(workers, _shards(opened))


def most_s(opened: OpenAudit, clock: Callable[[], float]) -> float:
    """Seconds that one process needs at most, where no attack breaks any image early; takes the
    time of a few passes. Draws nothing, and so may run beside what is served."""
    return _total_s(opened, Plan.of(opened.spec, False), _tried(opened), 1.0, clock)


def _tried(opened: OpenAudit) -> Batch:
    drawn = opened.image_set.sample(opened.spec.samples, opened.spec.seed)
    return Batch.of(opened, tuple(drawn[: min(TRIED_IMAGES, opened.images_at_once)].tolist()))


def _shards(opened: OpenAudit) -> int:
    return len(shards_of(opened.spec, opened.image_set, opened.images_at_once))


def _total_s(
    opened: OpenAudit, plan: Plan, tried: Batch, holding: float, clock: Callable[[], float]
) -> float:
    """Of one process, where `holding` of the images hold white-box."""
    spec = opened.spec
    count = len(opened.image_set.sample(spec.samples, spec.seed))
    whole, alone = opened.bundle.defence, opened.bundle.defence.classifier
    whole_s, alone_s = (_pass_s(model, tried, clock, gradient=True) for model in (whole, alone))
    answer_s = _pass_s(whole, tried, clock, gradient=False)

    def stopping(budget: float) -> float:
        """Passes of an attack that stops where it has won."""
        return holding * budget + (1 - holding) * min(budget, BREAKS_AFTER)

    total_s = 0.0
    left = dict.fromkeys(Knowledge, 1.0)
    for line in plan.lines.values():
        one_s = whole_s if line.level.denoiser else alone_s
        one_s = one_s if line.takes_gradient else answer_s
        budget = passes(line.attack) * line.gradient.samples
        stops = getattr(line.attack, "early_stop", True)
        share = left[line.knowledge] if spec.cascade else 1.0
        spent_s = (stopping(budget) if stops else budget) * one_s + _JUDGED * answer_s
        total_s += count * share * spent_s
        left[line.knowledge] = holding
    stronger: list[PGD | APGD] = [PGD(steps=1)]
    if Knowledge.WHITE_BOX in spec.knowledge:
        lines = attacks_to_outdo(plan)
        stronger = [more for item in lines for more in (with_twice_the_steps(item), item, item)]
    probe_s = (
        _ANSWERS * answer_s
        + 2 * BREAKS_AFTER * (whole_s + alone_s)
        + holding * (sum(map(passes, stronger)) * whole_s + NOISE_DRAWS * answer_s)
    )
    point_s = stopping(2 * CURVE_STEPS) * whole_s + BREAKS_AFTER * alone_s
    points = sum(epsilon > 0 for epsilon in spec.epsilons)
    probed, on_curve = min(spec.sanity_samples, count), min(CURVE_SAMPLES, count)
    return total_s + probed * probe_s + on_curve * points * point_s


def _pass_s(model: nn.Module, tried: Batch, clock: Callable[[], float], gradient: bool) -> float:
    """Seconds of an image, the second time."""
    for _ in range(2):
        begun_s = clock()
        images = tried.images.clone().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            logits = model(images)
        if gradient:
            torch.autograd.grad(logits.sum(), images)
        logits.sum().item()
    return (clock() - begun_s) / len(tried.indices)


def passes(attacker: AttackSpec) -> float:
    """Of an image that the attack never breaks, about."""
    options = attacker.model_dump()
    budget = next(
        (options[key] for key in ("steps", "queries", "draws") if options.get(key) is not None), 1
    )
    many = (options.get("restarts") or 1) * (options.get("targets") or 1)
    return float(budget * many * (options.get("searches") or 1))
