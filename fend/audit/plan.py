"""An audit's spec, resolved once into the lines that it asks for.

What runs, reports and checks the lines reads them from here; none of it asks again which attack
fits which level.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from fend.attacks import AttackSpec, Gradient
from fend.audit.levels import LEVELS, Level, gradient_of, pairs
from fend.audit.spec import AuditSpec
from fend.threat import Knowledge

Key = tuple[Knowledge, int]
"""A line's name: the level, and the attack's place in the spec."""


@dataclass(frozen=True)
class PlannedLine:
    """One attack at one level of knowledge."""

    knowledge: Knowledge
    asked: AttackSpec
    """The attack as the spec has it."""
    attack: AttackSpec
    """The attack as it runs: it stops early only where that decides nothing."""

    @property
    def level(self) -> Level:
        """The model that is attacked."""
        return LEVELS[self.knowledge]

    @property
    def gradient(self) -> Gradient:
        """How the gradient is taken; the plain way for attacks that take none."""
        return gradient_of(self.asked)

    @property
    def takes_gradient(self) -> bool:
        """Whether the attack takes gradients at all."""
        return self.asked.access == "gradient"

    @property
    def title(self) -> str:
        """The attack's short name: see `attack_title`."""
        return attack_title(self.asked)

    @property
    def gradient_through(self) -> str:
        """The graph that the gradient goes through, in words."""
        if self.asked.access == "none":
            return "none: random points"
        text = self.level.graph
        if self.gradient.denoiser == "identity":
            text = text.replace("denoiser", "denoiser (backward: identity)", 1)
        if self.gradient.samples > 1:
            text += f", mean of {self.gradient.samples}"
        return text


@dataclass(frozen=True)
class Plan:
    """Every line of an audit, in the spec's order."""

    spec: AuditSpec
    randomised: bool
    """Whether the audited pipeline answers at random."""
    lines: Mapping[Key, PlannedLine]

    @classmethod
    def of(cls, spec: AuditSpec, randomised: bool) -> "Plan":
        """Resolve `spec` for a pipeline that answers at random, or does not."""
        lines = {
            (level, number): line_at(spec.attacks[number], level, randomised)
            for level, number in pairs(spec.knowledge, spec.attacks)
        }
        return cls(spec, randomised, lines)

    def line(self, attacker: AttackSpec) -> PlannedLine:
        """A white-box line of any attack, as the curve and the probes run it."""
        return line_at(attacker, Knowledge.WHITE_BOX, self.randomised)

    @cached_property
    def white_box(self) -> tuple[AttackSpec, ...]:
        """The attacks of the white-box lines, as the spec has them."""
        return tuple(
            line.asked for line in self.lines.values() if line.knowledge is Knowledge.WHITE_BOX
        )

    @cached_property
    def white_box_gradients(self) -> tuple[Gradient, ...]:
        """The ways in which the white-box lines take the gradient, each once.

        A denoiser without a useful gradient is attacked past it in the curve and the probes as in
        the lines, so that these know no less than the lines do. Without a white-box line: the exact
        gradient.
        """
        ways = (gradient_of(item) for item in self.white_box if item.access == "gradient")
        return tuple(dict.fromkeys(ways)) or (Gradient(),)


def line_at(attacker: AttackSpec, knowledge: Knowledge, randomised: bool = False) -> PlannedLine:
    """`attacker` as it is run at a level.

    Where the attacked model is not the judged one, it is fooled long before the image also fools
    the pipeline. Where the pipeline answers at random, one lucky answer would end the attack.
    """
    runs = attacker
    whole = LEVELS[knowledge].transfer or randomised
    if whole and "early_stop" in type(attacker).model_fields:
        runs = attacker.model_copy(update={"early_stop": False})
    return PlannedLine(knowledge, attacker, runs)


def attack_title(attack: AttackSpec) -> str:
    """A short name, such as PGD-100, PGD-40x5 (restarts), SQUARE-5000 or APGD-T9-100 dlr.

    The loss is said where it is not the attack's usual one, and so is a start at the image itself,
    and a gradient that is not taken exactly: BPDA past the denoiser, EOT with its samples.
    """
    options = attack.model_dump()
    title = attack.name.upper().replace("_", "-")
    if options.get("targets"):
        title += f"-T{options['targets']}"
    for budget in ("steps", "queries", "draws"):
        title += f"-{options[budget]}" if budget in options else ""
    if options.get("restarts", 1) > 1:
        title += f"x{options['restarts']}"
    if options.get("random_start") is False:
        title += " from the image"
    if attack.objective.loss != type(attack)().objective.loss:
        title += f" {attack.objective.loss.replace('_', ' ')}"
    gradient = gradient_of(attack)
    if gradient.denoiser == "identity":
        title += " BPDA"
    return title if gradient.samples == 1 else f"{title} EOT-{gradient.samples}"
