"""A recipe: everything that decides what is trained, in one TOML file."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fend.attacks import AttackSpec
from fend.errors import FendError
from fend.images import InputSpec
from fend.threat import ThreatModel
from training.loss_networks import NetworkName
from training.losses import Scaling


class RecipeError(FendError):
    """A recipe cannot be used; the message names the key."""

    code = "recipe_invalid"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimiser(_Section):
    """How weights are updated."""

    kind: Literal["sgd", "adam", "adamw"] = "adam"
    learning_rate: float = Field(gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    """Adam's is L2 regularisation, as in the paper; AdamW's is decoupled."""
    schedule: Literal["constant", "cosine"] = "constant"


class DataSection(_Section):
    """Which images are learnt from."""

    train: str
    """A data set of `fend data list`, such as "mnist:train"."""
    test: str
    held_out: int = Field(default=5_000, ge=1)
    """Training images kept aside for selection; the test images are for the final table only."""
    limit: int | None = Field(default=None, ge=1)
    """Use only that many training images (held-out ones come on top). For trials."""


class ClassifierSection(_Section):
    """The network behind the denoiser: trained here, or taken from a bundle as it is."""

    from_bundle: str | None = None
    architecture: str = "paper-lenet"
    config: dict[str, Any] = {}
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)
    optimiser: Optimiser = Optimiser(kind="sgd", learning_rate=0.01, momentum=0.5)


class AdversariesSection(_Section):
    """The static adversarial images: made once from the training images against the classifier."""

    threat: ThreatModel
    attacks: list[AttackSpec] = Field(min_length=1)
    include_clean: bool = False
    """Also show clean images to the denoiser; the paper does not."""


class OnlineSection(_Section):
    """Adversarial images made at each step through denoiser and classifier as they are then."""

    attack: AttackSpec
    share: float = Field(default=0.5, gt=0, le=1)
    """How much of each batch; the rest are the static images."""
    ramp: float = Field(default=0.15, ge=0, le=1)
    """The part of the training over which epsilon grows from 0 to the threat model's."""


class LossSection(_Section):
    """Equation 4."""

    network: NetworkName | None
    taps: str | list[str] = "text"
    input_px: int = Field(default=32, ge=28, le=512)
    scaling: Scaling = "elements"
    feature_weight: float = Field(default=1.0, ge=0)
    pixel_weight: float = Field(default=1.0, ge=0)
    task_weight: float = Field(default=0.0, ge=0)
    """Of the protected classifier's cross-entropy on denoised images. Not in the paper."""
    cache_bytes: int = Field(default=4 * 2**30, ge=0)

    @model_validator(mode="after")
    def _something_to_learn(self) -> "LossSection":
        if self.pixel_weight == 0 and (self.network is None or self.feature_weight == 0):
            raise ValueError("all weights are zero: nothing would be learnt")
        return self


class DenoiserSection(_Section):
    """The network that is trained with the feature loss."""

    architecture: str
    config: dict[str, Any] = {}
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=128, ge=1)
    optimiser: Optimiser = Optimiser(learning_rate=1e-3, weight_decay=1e-5)


class Recipe(_Section):
    """`training/recipes/*.toml`, checked."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    summary: str
    """The first line of the model card."""
    seed: int = Field(default=0, ge=0)
    input: InputSpec
    data: DataSection
    classifier: ClassifierSection
    adversaries: AdversariesSection
    online: OnlineSection | None = None
    loss: LossSection
    denoiser: DenoiserSection

    def smoke(self) -> "Recipe":
        """The same line in miniature: rendered digits, few images, few steps. No data needed."""
        attacks = [_shortened(attack) for attack in self.adversaries.attacks]
        online = self.online and self.online.model_copy(
            update={"attack": _shortened(self.online.attack)}
        )
        return self.model_copy(
            update={
                "name": f"{self.name}-smoke",
                "data": DataSection(
                    train="rendered-digits:train",
                    test="rendered-digits:test",
                    held_out=200,
                    limit=1_500,
                ),
                "classifier": ClassifierSection(
                    architecture=self.classifier.architecture,
                    config=self.classifier.config,
                    epochs=3,
                    optimiser=Optimiser(learning_rate=2e-3),
                ),
                "adversaries": self.adversaries.model_copy(update={"attacks": attacks}),
                "online": online,
                "loss": self.loss.model_copy(update={"network": None, "pixel_weight": 1.0}),
                "denoiser": self.denoiser.model_copy(update={"epochs": 2}),
            }
        )


def _shortened(attack: AttackSpec) -> AttackSpec:
    budgets = {"steps", "queries", "draws"} & type(attack).model_fields.keys()
    return attack.model_copy(update=dict.fromkeys(budgets, 3))


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or any TOML file by path.

    Raises:
        RecipeError: no such recipe, not TOML, or a key that is unknown, missing or out of range.
    """
    text = _read(name_or_path)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name_or_path} is not TOML: {error}") from error
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {_key(e['loc'])}: {e['msg']}" for e in error.errors()]
        raise RecipeError(f"{name_or_path} cannot be used:\n" + "\n".join(lines)) from error


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with Fend."""
    folder = resources.files("training") / "recipes"
    files = [file.name for file in folder.iterdir() if file.name.endswith(".toml")]
    return sorted(name.removesuffix(".toml") for name in files)


def _read(name_or_path: str) -> str:
    if name_or_path in shipped_recipes():
        return (resources.files("training") / "recipes" / f"{name_or_path}.toml").read_text()
    path = Path(name_or_path)
    if not path.is_file():
        known = ", ".join(shipped_recipes())
        raise RecipeError(f"no recipe {name_or_path!r}: give a TOML file or one of: {known}")
    return path.read_text()


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "recipe"
