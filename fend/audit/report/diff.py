"""Two reports side by side: what got better or worse, and whether that is more than chance."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fend.audit.report.report import Line, Report, Share, threat_text
from fend.audit.rows.index_ranges import from_ranges
from fend.audit.rows.statistics import (
    difference_interval,
    mcnemar_p_value,
    paired_difference_interval,
)
from fend.errors import Invalid

LEVEL = 0.05
"""Of significance, for each number by itself: of twenty that did not change, one will seem to."""


IN_TITLE = {
    "name", "steps", "queries", "draws", "restarts", "targets", "random_start", "gradient",
    "early_stop",
}  # fmt: skip
"""Options of an attack that its title tells, or (`early_stop`) that its level decides."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Change(_Part):
    """One number of both reports."""

    what: str
    summary: bool
    """Whether it is a clean accuracy or a worst case, by which a regression is told."""
    before: Share
    after: Share
    gained: int | None
    """Images that are right only now; None where the reports are of different images."""
    lost: int | None
    low: float
    high: float
    """The 95 % interval of the difference, after minus before."""
    p_value: float | None
    """McNemar's exact test; None where the reports are of different images."""
    outcome: Literal["better", "worse", "unclear"]
    """`unclear`: the difference may well be chance."""


class CheckChange(_Part):
    """A sanity check that came out otherwise; None: not tried."""

    name: str
    before: bool | None
    after: bool | None
    text: str
    """What it says now."""


class Diff(_Part):
    """What differs between two reports."""

    before: str
    after: str
    """The models, with their versions."""
    differences: tuple[str, ...]
    """Why the numbers are not like for like, where they are not. Empty: nothing but the model."""
    paired: bool
    """Both are of the same images, so that single images can be compared."""
    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    """Lines without a counterpart."""
    checks: tuple[CheckChange, ...]
    reliable_before: bool | None
    reliable_after: bool | None
    regressed: bool
    """A clean accuracy or a worst case is worse, or the report became unreliable."""


def compare(before: Report, after: Report, *, anyway: bool = False) -> Diff:
    """Set `after` against `before`.

    Raises:
        Invalid (`reports_not_comparable`): their threat models or data sets differ. With `anyway`
            they are compared all the same, and `differences` says so.
    """
    unlike = _unlike(before, after)
    if unlike and not anyway:
        raise Invalid(
            f"{'; '.join(unlike)}: their numbers are no answers to the same question",
            code="reports_not_comparable",
        )
    paired = not any(
        getattr(before.identity, field) != getattr(after.identity, field)
        for field in ("dataset_digest", "index_digest")
    )
    old, new = dict(_numbers(before)), dict(_numbers(after))
    changes = tuple(
        _change(what, number, new[what], paired) for what, number in old.items() if what in new
    )
    checks_before = {line.name: line.passed for line in before.sanity}
    checks = tuple(
        CheckChange(
            name=line.name, before=checks_before.get(line.name), after=line.passed, text=line.text
        )
        for line in after.sanity
        if line.passed is not checks_before.get(line.name)
    )
    worse = any(change.summary and change.outcome == "worse" for change in changes)
    became_unreliable = after.reliable is False and before.reliable is not False
    return Diff(
        before=_model(before),
        after=_model(after),
        differences=(*unlike, *_other_differences(before, after)),
        paired=paired,
        changes=changes,
        only_before=tuple(what for what in old if what not in new),
        only_after=tuple(what for what in new if what not in old),
        checks=checks,
        reliable_before=before.reliable,
        reliable_after=after.reliable,
        regressed=worse or became_unreliable,
    )


@dataclass(frozen=True)
class _Number:
    share: Share
    wrong: str
    summary: bool


def _numbers(report: Report) -> Iterator[tuple[str, _Number]]:
    yield "clean", _Number(report.clean.defended, report.clean.wrong, True)
    for knowledge, share in report.worst_case_by_knowledge.items():
        number = _Number(share, report.wrong_by_knowledge[knowledge], True)
        yield f"{knowledge} worst case", number
    wrong = ",".join(filter(None, report.wrong_by_knowledge.values()))
    yield "worst case of all", _Number(report.worst_case, wrong, True)
    for line in report.lines:
        yield _name(line), _Number(line.defended, line.wrong, False)


def _name(line: Line) -> str:
    """The level, the attack's title, and its options that are in no title."""
    options = line.attack.model_dump(exclude_defaults=True, exclude=IN_TITLE)
    options.update(options.pop("objective", {}))
    told = ", ".join(f"{key} {value}" for key, value in options.items() if key != "loss")
    return f"{line.knowledge} {line.title}" + (f" ({told})" if told else "")


def _change(what: str, before: _Number, after: _Number, paired: bool) -> Change:
    gained = lost = p_value = None
    if paired:
        was, is_now = from_ranges(before.wrong), from_ranges(after.wrong)
        gained, lost = len(was - is_now), len(is_now - was)
        p_value = mcnemar_p_value(gained, lost)
        low, high = paired_difference_interval(gained, lost, before.share.n)
        clear = p_value < LEVEL
    else:
        low, high = difference_interval(
            before.share.correct, before.share.n, after.share.correct, after.share.n
        )
        clear = low > 0 or high < 0
    difference = after.share.accuracy - before.share.accuracy
    return Change(
        what=what,
        summary=before.summary,
        before=before.share,
        after=after.share,
        gained=gained,
        lost=lost,
        low=low,
        high=high,
        p_value=p_value,
        outcome="unclear" if not clear else "better" if difference > 0 else "worse",
    )


def _unlike(before: Report, after: Report) -> tuple[str, ...]:
    """What makes two reports answers to different questions."""
    told = []
    threats = [threat_text(r.threat.norm, r.threat.epsilon) for r in (before, after)]
    if threats[0] != threats[1]:
        told.append(f"the threat models differ ({threats[0]}, and {threats[1]})")
    if before.identity.dataset_digest != after.identity.dataset_digest:
        names = f"{before.identity.dataset}, and {after.identity.dataset}"
        told.append(f"the data sets differ ({names})")
    return tuple(told)


def _other_differences(before: Report, after: Report) -> Iterator[str]:
    """What else is not the same, and may explain a change that is not the model's."""
    old, new = before.identity, after.identity
    if old.index_digest != new.index_digest:
        yield f"the images differ ({old.n} with seed {old.seed}, and {new.n} with seed {new.seed})"
    if {_name(line) for line in before.lines} != {_name(line) for line in after.lines}:
        yield "the attacks differ, so that the worst cases are over different ones"
    if old.surrogate_version != new.surrogate_version:
        yield "the surrogates differ"
    if (old.fend_version, old.torch_version) != (new.fend_version, new.torch_version):
        yield (
            f"the software differs (Fend {old.fend_version} and PyTorch {old.torch_version}, Fend "
            f"{new.fend_version} and PyTorch {new.torch_version})"
        )


def _model(report: Report) -> str:
    digest = report.identity.model_version.removeprefix("sha256:")
    return f"{report.identity.model} {digest[:12]}"
