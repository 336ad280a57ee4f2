"""What a report holds: models only; `build.py` fills them from the rows."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fend.attacks import AttackSpec
from fend.audit.source import Source
from fend.audit.spec import AuditSpec
from fend.threat import Knowledge, Norm


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Identity(Source):
    """`Source`, and what follows from the rows."""

    index_digest: str
    """Of the sorted places in the data set: the same digest, the same images."""
    n: int
    seed: int
    forward_passes: int
    backward_passes: int


class Threat(_Part):
    norm: Norm
    epsilon: float
    epsilon_255: float
    """epsilon in steps of an 8-bit pixel."""


class Share(_Part):
    """So many of n, with a 95 % Wilson interval."""

    correct: int
    n: int
    accuracy: float
    low: float
    high: float


class Clean(_Part):
    defended: Share
    undefended: Share


class Line(_Part):
    """One attack at one knowledge level.

    An image counts as correct when the answer is right on it both clean and attacked.
    """

    knowledge: Knowledge
    gradient_through: str
    title: str
    attack: AttackSpec
    """As it ran, which may be with other options than asked: see `attack_at`."""
    defended: Share
    """The whole pipeline: what is served."""
    undefended: Share
    """The classifier alone, on the same adversarial images."""
    attacked_model_fooled: int
    mean_distance: float
    max_distance: float
    forward_passes: int
    backward_passes: int
    not_finite: int
    """Answers with NaN or infinity; they count as wrong."""


class ClassLine(_Part):
    index: int
    label: str
    clean: Share
    worst_case: Share


class Report(_Part):
    format: Literal["fend-audit/1"] = "fend-audit/1"
    verdict: str
    identity: Identity
    threat: Threat
    clean: Clean
    worst_case: Share
    """Images that are answered right clean and under every attack of every knowledge level."""
    worst_case_by_knowledge: dict[Knowledge, Share]
    lines: tuple[Line, ...]
    classes: tuple[ClassLine, ...]
    not_finite: int
    spec: AuditSpec


class Timing(_Part):
    """When it ran; UTC. Kept out of `Report`, so that equal audits have equal reports."""

    started_at: datetime
    finished_at: datetime
    wall_time_s: float


class AuditDocument(_Part):
    """A finished audit, as `fend audit --format json` and the service hand it out."""

    result: Report
    timing: Timing


def attack_title(attack: AttackSpec) -> str:
    """A short name, such as PGD-100, PGD-40x5 (restarts), SQUARE-5000 or APGD-T9-100 dlr.

    The loss is said where it is not the attack's usual one.
    """
    options = attack.model_dump()
    title = attack.name.upper().replace("_", "-")
    if options.get("targets"):
        title += f"-T{options['targets']}"
    for budget in ("steps", "queries", "draws"):
        title += f"-{options[budget]}" if budget in options else ""
    if options.get("restarts", 1) > 1:
        title += f"x{options['restarts']}"
    usual = type(attack)().objective.loss
    return title if attack.objective.loss == usual else f"{title} {attack.objective.loss}"


def percent(share: float) -> str:
    """Such as 43.0 %."""
    return f"{100 * share:.1f} %"


def threat_text(norm: Norm, epsilon: float) -> str:
    """Such as "Linf, epsilon 0.2 = 51/255"."""
    return f"{norm.capitalize()}, epsilon {epsilon:g} = {epsilon * 255:g}/255"
