"""What an audit is asked to do: the wire format of requests, presets, and clear refusals."""

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_origin

from pydantic import (
    BaseModel,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from fend.attacks import BIM, MIFGSM, PGD, AttackSpec
from fend.audit.levels import NEED_SURROGATE, pairs, runs_at
from fend.audit.presets import PRESETS, fitted, scaled
from fend.errors import Invalid
from fend.threat import Distance, Knowledge, ThreatModel

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""Pattern of a model's name."""


def spec_invalid(message: str) -> Invalid:
    """The error of a request that cannot be carried out as it is written."""
    return Invalid(message, code="audit_spec_invalid")


DEFAULT_THREAT = ThreatModel(norm="linf", epsilon=0.2)


class AuditSpec(BaseModel, frozen=True, extra="forbid"):
    """Everything that decides the result of an audit, apart from the models and the images.

    Each attack runs at the levels of `knowledge` that it is made for (the table in `levels`); all
    are judged on the whole pipeline.
    """

    preset: str | None = Field(
        default=None, max_length=64, exclude_if=lambda preset: preset is None
    )
    """The preset that the other fields were taken from, where they were not given. Decides
    nothing."""
    model: str = Field(pattern=NAME)
    dataset: str = Field(default="mnist:test", min_length=1, max_length=1_000)
    samples: int | None = Field(default=None, ge=1)
    """Number of images, drawn with `seed`; None is all of them."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    threat: ThreatModel = DEFAULT_THREAT
    knowledge: tuple[Knowledge, ...] = Field(
        default=(Knowledge.GREY_BOX, Knowledge.WHITE_BOX), min_length=1
    )
    attacks: tuple[AttackSpec, ...] = Field(min_length=1, max_length=32)
    cascade: bool = False
    """At one level, later attacks run only on images that still hold: the same worst case for less
    work, but no accuracy under a later attack alone."""
    surrogate: str | None = Field(default=None, pattern=NAME)
    """Another model, which black_box and grey_box_aware attack in place of `model`. None: one is
    trained by the recipe of `model` with another seed, once, and kept."""
    epsilons: tuple[Distance, ...] = Field(default=(), max_length=32)
    """Points of the curve of white-box accuracy, in the norm of `threat`."""
    sanity_samples: int = Field(default=100, ge=0, le=10_000)
    """Images that the sanity probes run on; 0: no sanity checks, so no such verdict."""
    examples: int = Field(default=8, ge=0, le=100)
    """Images that are kept to be looked at."""
    shard_size: int = Field(default=250, ge=1, le=1_000)
    """Images in one unit of work: what is kept when an audit is interrupted. Changes no answer."""

    @field_validator("knowledge", "attacks", "epsilons")
    @classmethod
    def _without_repeats(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if any(item in value[:position] for position, item in enumerate(value)):
            raise ValueError("holds the same entry twice")
        return value

    @model_validator(mode="after")
    def _attacks_fit_levels(self) -> "AuditSpec":
        """Each attack has a level to run at, and each level an attack."""
        chosen = pairs(self.knowledge, self.attacks)
        for number, attacker in enumerate(self.attacks):
            if not any(number == other for _, other in chosen):
                fitting = [level for level in Knowledge if runs_at(attacker, level)]
                raise ValueError(
                    f"attacks.{number}: {attacker.name} as it is here runs at "
                    f"{' and '.join(fitting)}, and knowledge holds {', '.join(self.knowledge)}"
                )
        for level in self.knowledge:
            if not any(level is other for other, _ in chosen):
                raise ValueError(
                    f"knowledge: none of the attacks runs at {level}, where these do: "
                    f"{', '.join(_names_at(level))}"
                )
        return self

    @model_validator(mode="after")
    def _attacks_fit_threat(self) -> "AuditSpec":
        for number, attacker in enumerate(self.attacks):
            if self.threat.norm not in attacker.norms:
                raise ValueError(
                    f"attacks.{number}: {attacker.name} is made for "
                    f"{' and '.join(attacker.norms)}, and threat.norm is {self.threat.norm}"
                )
        return self

    @model_validator(mode="after")
    def _surrogate_is_of_use(self) -> "AuditSpec":
        if self.surrogate is None:
            return self
        if self.surrogate == self.model:
            raise ValueError("surrogate: an attacker who has the model itself is white_box")
        if not any(level in NEED_SURROGATE for level in self.knowledge):
            raise ValueError(
                f"surrogate: only {' and '.join(NEED_SURROGATE)} attack one; add such a level to "
                "knowledge, or leave it out"
            )
        return self


def defaults_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """The data set and the threat of a bundle's audits where nobody says others: those that its
    manifest's section `about` names."""
    recipe = about.get("recipe")
    data = recipe.get("data") if isinstance(recipe, Mapping) else None
    found = {
        "dataset": data.get("test") if isinstance(data, Mapping) else None,
        "threat": about.get("threat"),
    }
    return {key: value for key, value in found.items() if value is not None}


def from_request(
    body: Mapping[str, Any],
    classes: int | None = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> AuditSpec:
    """A whole spec, or `preset` and what differs from it; `defaults` are the bundle's.

    A preset fits itself to what is asked beside it: to the norm, to a model of so many `classes`
    where they are known, and where the request holds only one of `knowledge` and `attacks`, to
    that. Attacks that the request holds are taken as they are.

    Raises:
        Invalid (`audit_spec_invalid`): names the field and says what it takes.
    """
    name = body.get("preset")
    body = {**defaults, **body}
    try:
        if name is None:
            spec = AuditSpec.model_validate(dict(body))
        elif not isinstance(name, str) or name not in PRESETS:
            [near] = get_close_matches(str(name), PRESETS, n=1) or [None]
            meant = "" if near is None else f"; did you mean {near!r}?"
            raise spec_invalid(f"preset: {name!r} is none of: {', '.join(sorted(PRESETS))}{meant}")
        else:
            preset = PRESETS[name]
            if "threat" in defaults:
                threat = ThreatModel.model_validate(body["threat"])
                preset = scaled(preset, threat.epsilon / DEFAULT_THREAT.epsilon)
            spec = AuditSpec.model_validate({**_fitting(preset, body, classes), **body})
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        # A list whose entries are refused also counts as empty, which would only confuse.
        told = [item for item in details if not (item["type"] == "too_short" and item["input"])]
        raise spec_invalid("; ".join(_explain(detail) for detail in told[:5])) from error
    if spec.threat.epsilon == 0:
        raise spec_invalid("threat.epsilon: 0 lets an attacker change nothing; give more than 0")
    check_distances(spec)
    return spec


def check_distances(spec: AuditSpec, pixels: int | None = None) -> None:
    """Refuse distances that no image of `pixels` values (C*H*W) leaves room for.

    Raises:
        Invalid (`audit_spec_invalid`): names the field and says what was probably meant.
    """
    sizes = {f"attacks.{number}.step_size": attacker.step_size
             for number, attacker in enumerate(spec.attacks)
             if isinstance(attacker, BIM | PGD | MIFGSM)}  # fmt: skip
    sizes |= {f"epsilons.{number}": epsilon for number, epsilon in enumerate(spec.epsilons)}
    for field, size in {"threat.epsilon": spec.threat.epsilon, **sizes}.items():
        refusal = None if size is None else spec.threat.refusal(size, pixels)
        if refusal is not None:
            raise spec_invalid(f"{field}: {refusal}")


def _fitting(
    preset: Mapping[str, Any], asked: Mapping[str, Any], classes: int | None
) -> dict[str, Any]:
    """`preset` without the levels and attacks for which what is asked leaves nothing to do."""
    fields = dict(preset)
    try:
        attacks = TypeAdapter(list[AttackSpec]).validate_python({**fields, **asked}["attacks"])
        levels = TypeAdapter(list[Knowledge]).validate_python({**fields, **asked}["knowledge"])
        threat = ThreatModel.model_validate(asked.get("threat", DEFAULT_THREAT))
    except ValidationError:
        return fields  # the whole spec is refused next, with the field's name
    if "attacks" not in asked:
        if classes is not None:
            attacks = list(fitted(attacks, classes)) or attacks
        attacks = [item for item in attacks if threat.norm in item.norms] or attacks
        if "knowledge" in asked:
            kept = [item for item in attacks if any(runs_at(item, level) for level in levels)]
            attacks = kept or attacks
        fields["attacks"] = attacks
    if "knowledge" not in asked:
        fitting = [level for level in levels if any(runs_at(item, level) for item in attacks)]
        fields["knowledge"] = fitting or levels
    return fields


def _names_at(level: Knowledge) -> list[str]:
    """The attacks that run at a level with their options left as they are."""
    defaults: list[Any] = [item() for item in _models_in(AttackSpec)]
    return [item.name for item in defaults if runs_at(item, level)]


def _explain(detail: Any) -> str:
    location: tuple[int | str, ...] = detail["loc"]
    where = ".".join(str(part) for part in location)
    message = detail["msg"].removeprefix("Value error, ")
    text = f"{where}: {message}" if where else message  # checks of more than one field name them
    if detail["type"] == "extra_forbidden":
        text += f"; allowed here: {', '.join(_fields_at(location[:-1]))}"
    if where == "attacks" and detail["type"] == "missing":
        text += f" (or name a preset: {', '.join(sorted(PRESETS))})"
    return text


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """The field names of the model that `location`, a path of pydantic's, leads to."""
    models: list[type[BaseModel]] = [AuditSpec]
    for part in location:
        if isinstance(part, int):
            continue
        tagged = [m for m in models if "name" in m.model_fields and _tag(m) == part]
        models = tagged or [
            inner
            for model in models
            if part in model.model_fields
            for inner in _models_in(model.model_fields[part].annotation)
        ]
    return sorted({field for model in models for field in model.model_fields})


def _tag(model: type[BaseModel]) -> Any:
    return model.model_fields["name"].default


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    return [model for argument in arguments for model in _models_in(argument)]
