"""The sections of a recipe."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fend.attacks import AttackSpec
from fend.errors import Invalid
from fend.images import InputSpec
from fend.threat import ThreatModel
from training.losses.networks import SOURCES, NetworkName

Scaling = Literal["elements", "magnitude"]
Distance = Literal["squared", "absolute"]
GuideTap = Literal["features", "logits"]
"""Outputs of the classifier that HGD compares: its first linear layer's input, or its logits."""


class RecipeError(Invalid):
    """A recipe that cannot be used; the message names the key."""

    code = "recipe_invalid"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimiser(_Section):
    """How weights are updated."""

    kind: Literal["sgd", "adam", "adamw"] = "adam"
    learning_rate: float = Field(gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay: L2 regularisation with Adam, as in the paper; decoupled with AdamW."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """`one_cycle`: up in the first fifth of the steps, then down (Smith 2018)."""

    @model_validator(mode="after")
    def _momentum_is_sgds(self) -> "Optimiser":
        if self.momentum and self.kind != "sgd":
            raise ValueError(f"momentum is for sgd; {self.kind} has its own")
        return self


class DataSection(_Section):
    """Images to train, select and test on."""

    train: str
    """A data set of `fend data list`, such as "mnist:train"."""
    test: str
    held_out: int = Field(default=5_000, ge=1)
    """Number of training images kept aside for selection; test images are for the final table."""
    limit: int | None = Field(default=None, ge=1)
    """Number of training images to use, besides the held-out ones; for trials."""
    split_groups: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether to keep whole groups aside, such as all frames of a filmed sign: else the held-out
    images have near copies among the training images."""
    skip_bad: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether to pass over files that are no pictures."""
    fit: bool = False
    """Whether to pad smaller images with black and repeat the channel of grey ones."""


class AdversarialSection(_Section):
    """Adversarial training of the classifier, on images made at each step."""

    kind: Literal["madry", "trades", "alp"]
    """`madry`: cross-entropy on adversarial images alone (Madry et al. 2017). `trades`: on clean
    ones, plus `weight` times the divergence between the answers on both (Zhang et al. 2019).
    `alp`: on both, plus `weight` times the squared distance of their logits (Kannan et al. 2018).
    """
    threat: ThreatModel
    attack: Literal["pgd", "n-fgsm"] = Field(default="pgd", exclude_if=lambda value: value == "pgd")
    """`pgd`: projected gradient ascent. `n-fgsm`: one step of epsilon from noise of twice epsilon,
    which is not projected (de Jorge et al. 2022): as good as two or three steps of the other."""
    steps: int = Field(default=1, ge=1)
    """Steps of projected gradient ascent from a random start (TRADES: from next to the image)."""
    step_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Step size on the pixel scale; None is 2.5 * epsilon / steps."""
    weight: float | None = Field(default=None, gt=0)
    ramp: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the training over which epsilon and the step size grow from 0."""
    weakest: float = Field(default=1.0, gt=0, le=1, exclude_if=lambda value: value == 1)
    """With `n-fgsm`: each image's epsilon is drawn evenly between this fraction of epsilon and all
    of it, so that images with little contrast can be learnt as well."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, exclude_if=lambda value: not value)
    """Label smoothing of the cross-entropies."""

    @model_validator(mode="after")
    def _one_step(self) -> "AdversarialSection":
        if self.attack == "n-fgsm" and (self.steps > 1 or self.step_size or self.kind == "trades"):
            raise ValueError(
                "attack: n-fgsm makes one step of epsilon up the cross-entropy; use madry or alp, "
                "without steps and step_size"
            )
        if self.attack == "n-fgsm" and self.threat.norm != "linf":
            raise ValueError("attack: n-fgsm is for the norm linf")
        if self.weakest < 1 and self.attack != "n-fgsm":
            raise ValueError("weakest is for n-fgsm")
        return self

    @model_validator(mode="after")
    def _weight_of_the_second_term(self) -> "AdversarialSection":
        if (self.kind == "madry") != (self.weight is None):
            raise ValueError("weight belongs to trades and alp, which need it; madry has none")
        return self


class AugmentSection(_Section):
    """Random changes of every training image, drawn anew at each step, before it is attacked."""

    shift_px: float = Field(default=0.0, ge=0)
    """Largest shift along each side."""
    mirror: bool = False
    """Whether to mirror half of the images, left to right."""
    rotate_degrees: float = Field(default=0.0, ge=0, le=180)
    """Largest rotation."""
    scale: float = Field(default=1.0, ge=1, le=4)
    """Largest factor by which an image grows or shrinks."""
    perspective: float = Field(default=0.0, ge=0, lt=0.5)
    """Largest tilt: by which fraction one side is nearer than the middle."""
    brightness: float = Field(default=1.0, ge=1, le=8)
    """Largest factor by which pixels are multiplied or divided."""
    contrast: float = Field(default=1.0, ge=1, le=8)
    """Largest factor by which differences from the image's mean are multiplied or divided."""
    tint: float = Field(default=1.0, ge=1, le=4)
    """As `brightness`, for each colour separately."""
    blur: float = Field(default=0.0, ge=0, le=1)
    """Largest share of the mean over 3x3 pixels in a pixel."""


class ClassifierSection(_Section):
    """The network behind the denoiser: trained here, or taken unchanged from a bundle or from the
    user's code (see `training.classifiers.foreign`)."""

    from_bundle: str | None = None
    factory: str | None = None
    """The source of a foreign classifier, such as "package.module:function" that makes a
    torch.nn.Module, "torchvision:resnet18" or a file (see `training.classifiers.sources`)."""
    weights: str | None = None
    """Its weights, a file; None keeps those that the source gives it."""
    mean: tuple[float, ...] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of pixels in [0, 1], a number a channel; as `std` and `bgr`, over what the source says."""
    std: tuple[float, ...] | None = Field(default=None, exclude_if=lambda value: value is None)
    bgr: bool | None = Field(default=None, exclude_if=lambda value: value is None)
    """Whether it takes blue first."""
    labels: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """A file with the names of its classes, one a line, in the order of its logits; or "imagenet".
    """
    learns: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether `[joint]` may train it further, where it is not trained here."""
    architecture: str = "paper-lenet"
    config: dict[str, Any] = {}
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)
    optimiser: Optimiser = Optimiser(kind="sgd", learning_rate=0.01, momentum=0.5)
    average: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the moving average of the weights; the average is kept in place of the last."""
    augment: bool = False
    """Whether to shift images by up to 4 pixels and mirror half of them, as for photographs.
    The recipe's section [augment] is for more."""
    precision: Literal["bfloat16"] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Precision of the convolutions while it learns; None is float32, as is all that is judged."""
    adversarial: AdversarialSection | None = None

    @model_validator(mode="after")
    def _trained_here_or_taken(self) -> "ClassifierSection":
        if self.from_bundle is not None and self.factory is not None:
            raise ValueError("the classifier comes from_bundle or from a factory, not from both")
        of_source = (self.weights, self.mean, self.std, self.bgr, self.labels)
        if self.factory is None and any(value is not None for value in of_source):
            raise ValueError(
                "weights, mean, std, bgr, labels: of which classifier? Give its factory"
            )
        if self.taken and self.adversarial is not None:
            raise ValueError("adversarial: a classifier that is not trained here is taken as it is")
        return self

    @property
    def taken(self) -> bool:
        """Whether it is not trained here."""
        return self.from_bundle is not None or self.factory is not None


class AdversariesSection(_Section):
    """Static adversarial images, made once from the training images against the classifier."""

    threat: ThreatModel
    attacks: list[AttackSpec] = Field(min_length=1)
    include_clean: bool = False
    """Whether the denoiser also sees clean images; the paper's does not."""


class OnlineSection(_Section):
    """Adversarial images made at each step through the current denoiser and classifier.

    As `[online]` only the denoiser learns from them, and the classifier stays unchanged. As
    `[joint]` both learn, the classifier from where `[classifier]` left it; the pair protects no
    other classifier. Static images are not used: those made against the current pair are harder.
    """

    adversarial: AdversarialSection
    clean_weight: float = Field(default=1.0, ge=0)
    """Weight of the pixel term on clean images, which should stay unchanged. With `madry` and 0 no
    clean image is shown, which halves the work."""


class NoiseSection(_Section):
    """Gaussian noise on every image, drawn anew at each step, for a pipeline that is certified by
    randomised smoothing (Cohen et al. 2019; with a denoiser: Salman et al. 2020)."""

    sigma: float = Field(gt=0, allow_inf_nan=False)
    """Standard deviation on the pixel scale; certificates are for the same noise."""


class IbpSection(_Section):
    """Denoiser and classifier learn together from interval bounds (Gowal et al. 2018), so that
    their L-inf robustness can be proved. There is no other loss, and nothing is attacked.

    The classifier starts as `[classifier]` trained it. The pair protects no other classifier.
    """

    epsilon: float = Field(gt=0, le=1, allow_inf_nan=False)
    """Radius of the boxes at the end of the ramp; slightly above `tested_epsilon` works best."""
    tested_epsilon: float = Field(gt=0, le=1, allow_inf_nan=False)
    """Radius of the verified accuracy that is reported and selects the best epoch."""
    ramp: float = Field(default=0.5, ge=0, le=1)
    """Fraction of the training over which epsilon and the share of the worst case grow from 0."""
    worst_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the worst case in the cross-entropy at the end; the rest is on clean images."""
    pixel_weight: float = Field(default=0.0, ge=0)
    """Weight of equation 4's pixel term at the worst case of the denoiser's bounds."""


def _none_in_words(value: object) -> object:
    return None if value == "none" else value  # TOML has no null


class LossSection(_Section):
    """Equation 4, and HGD's losses, which compare feature maps of the classifier itself."""

    network: Annotated[
        NetworkName | Literal["classifier"] | None, BeforeValidator(_none_in_words)
    ] = None
    """Source of the feature maps: a loss network, the protected classifier, or "none"."""
    taps: str | list[str] = "text"
    """Tap profile of the network, or names of its layers."""
    input_px: int = Field(default=32, ge=28, le=512)
    precision: Literal["bfloat16"] | None = None
    """Precision of the network's convolutions; None is float32."""
    distance: Distance = "squared"
    """Distance, averaged over elements: `squared` as in equation 4, `absolute` as in HGD."""
    scaling: Scaling = "elements"
    feature_weight: float = Field(default=1.0, ge=0)
    pixel_weight: float = Field(default=1.0, ge=0)
    task_weight: float = Field(default=0.0, ge=0)
    """Weight of the protected classifier's cross-entropy on denoised images, or, with `[online]`,
    of the terms of `online.adversarial`. Not in the paper."""
    cache_bytes: int = Field(default=4 * 2**30, ge=0)

    @model_validator(mode="after")
    def _something_to_learn(self) -> "LossSection":
        features = self.network is not None and self.feature_weight
        if not (self.pixel_weight or features or self.task_weight):
            raise ValueError("all weights are zero: nothing would be learnt")
        return self

    @model_validator(mode="after")
    def _taps_of_the_network(self) -> "LossSection":
        if self.network is None:
            return self
        if self.network == "classifier":
            known = get_args(GuideTap)
        elif isinstance(self.taps, str):
            known = tuple(SOURCES[self.network].taps)
        else:
            return self  # names of layers: the network knows them
        if self.taps not in known:
            profiles = ", ".join(known)
            raise ValueError(f"taps: {self.network} has no {self.taps!r}; it has: {profiles}")
        return self


class DenoiserSection(_Section):
    """The network in front of the classifier; none without this section."""

    architecture: str = "identity"
    config: dict[str, Any] = {}
    epochs: int = Field(default=0, ge=0)
    """Number of epochs; 0 for a denoiser that does not learn, such as a median filter."""
    batch_size: int = Field(default=128, ge=1)
    optimiser: Optimiser = Optimiser(learning_rate=1e-3, weight_decay=1e-5)
    average: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the moving average of the weights, as for the classifier."""
    precision: Literal["bfloat16"] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Precision of the convolutions while it learns, as for the classifier."""


_SOURCES = ("adversaries", "online", "noise", "joint", "ibp")
"""Sections that choose a denoiser's training samples; one that learns needs exactly one."""


class Recipe(_Section):
    """A complete recipe, which `training.recipe.files` makes from TOML."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    summary: str
    """First line of the model card."""
    profile: str = "full"
    """Name of the chosen budget."""
    seed: int = Field(default=0, ge=0)
    threat: ThreatModel | None = Field(default=None, exclude_if=lambda value: value is None)
    """What the bundle is meant to withstand: the default of its audits."""
    input: InputSpec
    data: DataSection
    augment: AugmentSection | None = Field(default=None, exclude_if=lambda value: value is None)
    classifier: ClassifierSection
    adversaries: AdversariesSection | None = None
    online: OnlineSection | None = None
    noise: NoiseSection | None = None
    joint: OnlineSection | None = None
    ibp: IbpSection | None = None
    loss: LossSection | None = None
    denoiser: DenoiserSection = DenoiserSection()

    @property
    def learns_from(self) -> str:
        """The section that the stage is given; "denoiser" where the denoiser learns nothing."""
        return next((key for key in _SOURCES if getattr(self, key) is not None), "denoiser")

    @model_validator(mode="after")
    def _foreign_classifier_stays(self) -> "Recipe":
        for key in ("joint", "ibp"):
            stays = key == "ibp" or not self.classifier.learns
            if self.classifier.factory is not None and stays and getattr(self, key) is not None:
                raise ValueError(
                    f"{key}: would change the classifier, which is to stay as it is; use a recipe "
                    "with [online], such as mnist-online, or let it learn: classifier.learns = true"
                )
        return self

    @model_validator(mode="after")
    def _denoiser_learns_from_something(self) -> "Recipe":
        alone = [key for key in _SOURCES[1:] if getattr(self, key) is not None]
        if self.denoiser.epochs and alone:
            if sum(getattr(self, key) is not None for key in _SOURCES) > 1:
                raise ValueError(f"{alone[0]}: makes all it is shown itself; leave the others out")
            if self.ibp is not None:
                if self.loss is not None:
                    raise ValueError("ibp: has a loss of its own; leave the section loss out")
                return self
            if self.loss is None:
                raise ValueError("a denoiser that is trained needs sections: loss")
            guided = self.loss.network == "classifier" or self.loss.task_weight
            if self.joint is not None and guided:
                raise ValueError("joint: the classifier learns, so it guides nothing")
        elif self.denoiser.epochs:
            missing = [key for key in ("adversaries", "loss") if getattr(self, key) is None]
            if missing:
                raise ValueError(f"a denoiser that is trained needs sections: {', '.join(missing)}")
        else:
            useless = [key for key in (*_SOURCES, "loss") if getattr(self, key)]
            if useless:
                raise ValueError(
                    f"denoiser.epochs is 0, so nothing would use these sections: "
                    f"{', '.join(useless)}; give the denoiser epochs, or leave them out"
                )
        return self
