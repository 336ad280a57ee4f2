"""What a report holds: models only; `build` fills them from the rows."""

from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from fend.attacks import AttackSpec
from fend.audit.rows import Source
from fend.audit.rows.index_ranges import IndexRanges
from fend.audit.rows.statistics import percent, wilson_interval
from fend.audit.sanity.finding import SanityLine
from fend.audit.spec import AuditSpec
from fend.threat import Knowledge, Norm


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Identity(Source):
    """`Source`, and what follows from the rows."""

    indices: IndexRanges
    """The images' places in the data set."""
    index_digest: str
    """Digest of the sorted places: the same digest, the same images."""
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

    @classmethod
    def of(cls, correct: int, n: int) -> "Share":
        """`correct` of `n` >= 1, with the interval."""
        low, high = wilson_interval(correct, n)
        return cls(correct=correct, n=n, accuracy=correct / n, low=low, high=high)


class Headline(_Part):
    """The number to quote: what holds under every white-box attack."""

    knowledge: Knowledge | None
    """Level of the attacks; None: none was white-box, and `accuracy` is under all that were run."""
    accuracy: Share


class Clean(_Part):
    defended: Share
    undefended: Share
    """The classifier alone."""
    mean_confidence: float | None
    """Mean over the pipeline's answers, right or wrong; None where none was finite."""
    wrong: IndexRanges
    """Images that the pipeline gets wrong as they are."""


class Line(_Part):
    """One attack at one knowledge level.

    An image counts as correct when the answer is right on it both clean and attacked. Where the
    audit cascades, an image that an earlier line of the level broke is skipped here, and counts as
    wrong.
    """

    knowledge: Knowledge
    gradient_through: str
    title: str
    attack: AttackSpec
    """As it ran, which may be with other options than asked: see `plan.line_at`."""
    attacked: int
    skipped: int
    defended: Share
    """The whole pipeline: what is served."""
    undefended: Share | None
    """The classifier alone, on the same adversarial images. None where images were skipped: those
    that are left are no fair sample."""
    wrong: IndexRanges
    """The images that count as wrong."""
    attacked_model_fooled: int
    mean_confidence: float | None
    """Mean over the pipeline's answers on the attacked images; None where there are none."""
    mean_distance: float | None
    max_distance: float | None
    forward_passes: int
    backward_passes: int
    not_finite: int
    """Answers with NaN or infinity; they count as wrong."""
    silent_successes: int
    """Images where the attack saw the attacked model fooled, and returned one that does not."""
    zero_gradients: int
    """Images whose every gradient was exactly zero."""
    broken_gradients: int
    """Images where some gradient held NaN or infinity."""
    unfinished: int
    """Images on which the attack was still gaining when its steps ran out."""


class ClassLine(_Part):
    index: int
    label: str
    clean: Share
    worst_case: Share


class CurvePoint(_Part):
    """White-box accuracy at one epsilon."""

    epsilon: float
    epsilon_255: float
    defended: Share
    undefended: Share
    """The classifier alone, attacked for itself."""


class Example(_Part):
    """An image and what an attack made of it: 8-bit PNGs in base64, and the pipeline's answers."""

    index: int
    label: int
    knowledge: Knowledge
    title: str
    clean_png: str
    adversarial_png: str
    denoised_png: str
    """What the denoiser makes of the adversarial image."""
    clean_answer: int | None
    clean_confidence: float | None
    answer: int | None
    confidence: float | None
    undefended_answer: int | None
    undefended_confidence: float | None


class Served(_Part):
    """Adversarial images as 8-bit PNGs, through the running service."""

    agreed: Share
    """The served answer is the audit's, which was made before rounding to 8 bits."""
    broken: int
    """Those that the audit counts as fooled..."""
    still_broken: int
    """...and how many of them the service gets wrong too."""


class Report(_Part):
    format: Literal["fend-audit/2"] = "fend-audit/2"
    verdict: str
    reliable: bool | None
    """Whether no sanity check failed; None where none did, but no probes ran either."""
    headline: Headline
    identity: Identity
    threat: Threat
    clean: Clean
    worst_case: Share
    """Images that are answered right clean and under every attack of every knowledge level."""
    worst_case_by_knowledge: dict[Knowledge, Share]
    wrong_by_knowledge: dict[Knowledge, IndexRanges]
    """The images that are wrong clean or under some attack of the level."""
    lines: tuple[Line, ...]
    sanity: tuple[SanityLine, ...]
    curve: tuple[CurvePoint, ...]
    classes: tuple[ClassLine, ...]
    served: Served | None
    examples: tuple[Example, ...]
    """Pictures of the data set: leave them out of files that are passed on."""
    not_finite: int
    spec: AuditSpec

    def without_pictures(self) -> Self:
        """The same without `examples`."""
        return self.model_copy(update={"examples": ()})


class Timing(_Part):
    """When it ran; UTC. Kept out of `Report`, so that equal audits have equal reports."""

    started_at: datetime
    finished_at: datetime
    wall_time_s: float


class AuditDocument(_Part):
    """A finished audit, as `fend audit --format json` and the service hand it out."""

    result: Report
    timing: Timing


def interval(share: Share) -> str:
    """Such as 41.2 % to 44.8 %."""
    return f"{percent(share.low)} to {percent(share.high)}"


def threat_text(norm: Norm, epsilon: float) -> str:
    """Such as "Linf, epsilon 0.2 = 51/255"."""
    return f"{norm.capitalize()}, epsilon {epsilon:g} = {epsilon * 255:g}/255"
