"""White-box attacks outside the lines of an audit: for its curve and its probes."""

from collections.abc import Callable, Sequence

from fend.attacks import AttackSpec, Gradient, attack
from fend.audit.answers import Answer, answers
from fend.audit.attacked import AttackedModel
from fend.audit.batch import Batch
from fend.audit.levels import gradient_of, pairs
from fend.audit.line import attack_batch
from fend.audit.opened import OpenAudit
from fend.audit.spec import AuditSpec
from fend.threat import Knowledge, ThreatModel


def gradients(spec: AuditSpec) -> tuple[Gradient, ...]:
    """The ways in which the white-box lines of `spec` take the gradient, each once.

    A denoiser without a useful gradient is attacked past it, here as in the lines, so that its
    curve and its probes are no better than what the lines know how to do. Without a white-box
    line: the exact gradient.
    """
    attackers = [
        spec.attacks[number] for level, number in pairs(spec) if level is Knowledge.WHITE_BOX
    ]
    ways = (gradient_of(item) for item in attackers if item.access == "gradient")
    return tuple(dict.fromkeys(ways)) or (Gradient(),)


def worst_answers(
    opened: OpenAudit,
    batch: Batch,
    attackers: Sequence[AttackSpec],
    threat: ThreatModel,
    stop: Callable[[], None],
    *,
    seed: int | None = None,
) -> dict[int, Answer]:
    """The answer on each image of `batch`, by its place, after white-box attacks tried in turn: the
    first one that breaks the image, or else the last. `seed` None is the audit's."""
    found: dict[int, Answer] = {}
    for attacker in attackers:
        if not batch.indices:
            break
        result = attack_batch(opened, batch, attacker, Knowledge.WHITE_BOX, threat, stop, seed=seed)
        judged = answers(opened.bundle.defence, result.adversarial, opened.randomised)
        found |= dict(zip(batch.indices, judged, strict=True))
        batch = batch.only(batch.right(judged))
    return found


def undefended_answers(
    opened: OpenAudit,
    batch: Batch,
    attacker: AttackSpec,
    threat: ThreatModel,
    stop: Callable[[], None],
) -> list[int | None]:
    """The classifier's answers where it is attacked alone and for itself."""
    classifier = opened.bundle.defence.classifier
    result = attack(
        attacker,
        AttackedModel(classifier, classifier, gradient_of(attacker).samples),
        batch.images,
        batch.labels,
        threat,
        seed=opened.spec.seed,
        sample_ids=batch.indices,
        stop=stop,
    )
    judged = answers(opened.bundle.defence, result.adversarial, opened.randomised)
    return [answer.undefended for answer in judged]
