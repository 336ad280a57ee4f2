"""What an audit is asked to do: the wire format of requests, presets, and clear refusals."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from fend.attacks import FGSM, PGD, AttackSpec, Square
from fend.errors import FendError
from fend.threat import Knowledge, ThreatModel


class AuditSpecInvalid(FendError):
    """The request for an audit cannot be carried out as it is written."""

    code: ClassVar[str] = "audit_spec_invalid"


class AuditSpec(BaseModel, frozen=True, extra="forbid"):
    """Everything that decides the result of an audit, apart from the model and the images.

    Every attack runs at every knowledge level; all are judged on the whole pipeline.
    """

    model: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    dataset: str = Field(default="mnist:test", min_length=1, max_length=1_000)
    samples: int | None = Field(default=None, ge=1)
    """How many images, drawn with `seed`; None is all of them."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    threat: ThreatModel = ThreatModel(norm="linf", epsilon=0.2)
    knowledge: tuple[Knowledge, ...] = Field(default=tuple(Knowledge), min_length=1)
    attacks: tuple[AttackSpec, ...] = Field(min_length=1, max_length=32)
    shard_size: int = Field(default=250, ge=1, le=1_000)
    """Images in one unit of work: what is kept when an audit is interrupted. Changes no answer."""

    @field_validator("knowledge", "attacks")
    @classmethod
    def _without_repeats(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if any(item in value[:position] for position, item in enumerate(value)):
            raise ValueError("holds the same entry twice")
        return value

    @model_validator(mode="after")
    def _attacks_fit_threat(self) -> "AuditSpec":
        if self.threat.norm != "linf" and any(isinstance(item, Square) for item in self.attacks):
            raise ValueError(f"square is an L-inf attack; threat.norm is {self.threat.norm}")
        return self


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # A first look: under a minute on two cores.
        "quick": {
            "samples": 200,
            "attacks": (FGSM(), PGD(steps=20)),
            "shard_size": 25,
        },
        # The paper, section 4.2: FGSM and PGD at epsilon 0.2, over the whole test set.
        "paper": {
            "samples": None,
            "attacks": (FGSM(), PGD(steps=100, step_size=0.1)),
        },
    }
)


def from_request(body: Mapping[str, Any]) -> AuditSpec:
    """A whole spec, or `preset` and what differs from it.

    Raises:
        AuditSpecInvalid: names the field and says what it takes.
    """
    fields = dict(body)
    name = fields.pop("preset", None)
    if name is not None:
        if not isinstance(name, str) or name not in PRESETS:
            raise AuditSpecInvalid(f"preset: {name!r} is none of: {', '.join(sorted(PRESETS))}")
        fields = {**PRESETS[name], **fields}
    try:
        return AuditSpec.model_validate(fields)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        # A list whose entries are refused also counts as empty, which would only confuse.
        told = [item for item in details if not (item["type"] == "too_short" and item["input"])]
        raise AuditSpecInvalid("; ".join(_explain(detail) for detail in told[:5])) from error


def _explain(detail: Any) -> str:
    location: tuple[int | str, ...] = detail["loc"]
    where = ".".join(str(part) for part in location) or "the request"
    text = f"{where}: {detail['msg']}"
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
