"""The model card: a bundle's README, from what its manifest says about it."""

from typing import Any

from fend.attacks import AttackSpec
from fend.threat import ThreatModel
from training.recipe.schema import AdversarialSection, LossSection, Recipe


def model_card(name: str, about: dict[str, Any]) -> str:
    """Markdown; `about` is the manifest's, of a bundle that training made."""
    recipe, data = Recipe.model_validate(about["recipe"]), about["data"]
    lines = [
        f"# {name}",
        "",
        about["summary"],
        "",
        f"- Denoiser: {_denoiser(recipe, about)}.",
        f"- Classifier: {_classifier(recipe, about)}.",
        *_loss(recipe),
        f"- Trained on {data['train']['images']:,} images of {data['train']['name']}"
        f"{_shown(recipe)}; {data['held_out']['images']:,} more held out for selection.",
        f"- {_profile(recipe)}Seed {recipe.seed}; Fend {about['made_with']['fend']}, "
        f"torch {about['made_with']['torch']}.",
        *([f"- A surrogate of {about['surrogate_of']}."] if "surrogate_of" in about else []),
        "",
        "## Held-out accuracy",
        "",
        *_held_out(recipe, about),
        *_verified(recipe, about),
        *_beside(about),
        *_measured(about),
    ]
    return "\n".join(lines) + "\n"


def _denoiser(recipe: Recipe, about: dict[str, Any]) -> str:
    architecture = recipe.denoiser.architecture
    if architecture == "identity":
        return "none, images go to the classifier as they come"
    if not recipe.denoiser.epochs:
        return f"`{architecture}`, which learns nothing"
    planned, finished = about["epochs"]["planned"], about["epochs"]["finished"]
    epochs = f"{planned} epochs"
    if finished != planned:
        epochs = f"cut short after {finished} of {epochs}"
    return f"`{architecture}`, {about['parameters']['denoiser']:,} parameters, {epochs}"


def _classifier(recipe: Recipe, about: dict[str, Any]) -> str:
    section = recipe.classifier
    size = f"{about['parameters']['classifier']:,} parameters"
    if recipe.joint is not None:
        return (
            f"`{section.architecture}`, {size}, trained together with the denoiser: "
            f"{_adversarial(recipe.joint.adversarial)}; the denoiser protects no other"
        )
    if recipe.ibp is not None:
        return (
            f"`{section.architecture}`, {size}, trained together with the denoiser by interval "
            f"bounds (Gowal et al. 2018), epsilon {recipe.ibp.epsilon:g}; the denoiser protects no "
            "other"
        )
    if about.get("foreign_classifier"):
        return f"{_foreign(about['foreign_classifier'])}, {size}"
    if section.from_bundle is not None or section.adversarial is None:
        return size
    return (
        f"`{section.architecture}`, {size}, {section.epochs} epochs of adversarial training: "
        f"{_adversarial(section.adversarial)}"
    )


def _foreign(origin: dict[str, Any]) -> str:
    file = ""
    if origin["weights"] is not None:
        file = f" with the weights `{origin['weights']}` (SHA-256 `{origin['weights_sha256']}`)"
    return (
        f"foreign, made by `{origin['factory']}`{file} and taken as it is: none of its "
        f"{origin['tensors']} tensors was changed (SHA-256 of all `{origin['tensors_sha256']}`, "
        "before and after)"
    )


def _adversarial(section: AdversarialSection) -> str:
    weight = "" if section.weight is None else f", weight {section.weight:g}"
    return f"{section.kind}{weight}, {section.steps} steps, {_threat(section.threat)}"


def _loss(recipe: Recipe) -> list[str]:
    loss = recipe.loss
    if loss is None:
        return []
    task = ""
    if loss.task_weight:
        task = (
            f"; plus {loss.task_weight:g} times the frozen classifier's cross-entropy "
            "(not in the paper)"
        )
    return [f"- Loss: {_compared(loss)}{task}."]


def _compared(loss: LossSection) -> str:
    taps = loss.taps if isinstance(loss.taps, str) else ", ".join(loss.taps)
    distance = "" if loss.distance == "squared" else f"mean {loss.distance} difference of "
    if loss.network is None or not loss.feature_weight:
        return f"{distance or 'mean squared difference of '}pixels alone"
    if loss.network == "classifier":
        pixels = " and pixels" if loss.pixel_weight else ""
        how = distance or "mean squared difference of "
        return f"{how}the protected classifier's {taps}{pixels}, as in HGD"
    return (
        f"equation 4 with the loss network `{loss.network}`, taps `{taps}`, "
        f"scaling `{loss.scaling}`"
        + (f", {loss.distance} differences" if distance else "")
        + (f", {loss.precision} convolutions" if loss.precision else "")
    )


def _shown(recipe: Recipe) -> str:
    if recipe.joint is not None:
        return ", clean and attacked at each step through both as they are then"
    if recipe.online is not None:
        made = _adversarial(recipe.online.adversarial)
        return f", clean and attacked at each step through both as they are then: {made}"
    if recipe.noise is not None:
        return f", with new Gaussian noise each time (standard deviation {recipe.noise.sigma:g})"
    section = recipe.adversaries
    if section is None:
        return ""
    attacks = ", ".join(_attack(attack) for attack in section.attacks)
    clean = " and clean images" if section.include_clean else ""
    return f", as {attacks} ({_threat(section.threat)}){clean}"


def _profile(recipe: Recipe) -> str:
    return "" if recipe.profile == "full" else f"Profile `{recipe.profile}`. "


def _held_out(recipe: Recipe, about: dict[str, Any]) -> list[str]:
    explained = []
    if recipe.adversaries is not None:
        explained.append("Attacks on the bare classifier (grey-box)")
    if "white_box" in about["held_out"]:
        explained.append(f"`white_box` is PGD-10 through everything{_at(recipe)}, 500 images")
    rows = dict(about["held_out"])
    alone = dict(about.get("classifier_held_out", {}))
    if about.get("foreign_classifier"):
        rows["classifier alone, clean"] = alone["accuracy"]
    if "white_box" in alone:
        section = recipe.classifier.adversarial
        assert section is not None, "it was trained adversarially"
        name = "classifier alone" if recipe.joint is None else "classifier at the start"
        epsilon = f"{section.threat.epsilon:g}"
        explained.append(
            f"the classifier's `white_box` is PGD-10 on it alone at {epsilon}, 500 images"
        )
        rows[f"{name}, clean"] = alone["accuracy"]
        rows[f"{name}, white_box"] = alone["white_box"]
    return [
        *(["; ".join(explained) + ".", ""] if explained else []),
        "| shown | accuracy |",
        "|---|---|",
        *(
            f"| {key} | {value:.4f} |"
            for key, value in rows.items()
            if key not in ("score", "verified")
        ),
    ]


def _verified(recipe: Recipe, about: dict[str, Any]) -> list[str]:
    """What is proved, apart from what attacks did not find."""
    if recipe.ibp is None:
        return []
    share = about["held_out"]["verified"]
    return [
        "",
        "## Verified accuracy, held out",
        "",
        "Labelled right for every image of the L-inf ball of epsilon "
        f"{recipe.ibp.tested_epsilon:g}, proved by interval bounds: {share:.4f}.",
    ]


def _at(recipe: Recipe) -> str:
    """The epsilon of a pipeline's `white_box` figure."""
    if recipe.ibp is not None:
        return f" at {recipe.ibp.tested_epsilon:g}"
    if (made := recipe.joint or recipe.online) is not None:
        return f" at {made.adversarial.threat.epsilon:g}"
    return "" if recipe.adversaries is None else f" at {recipe.adversaries.threat.epsilon:g}"


def _beside(about: dict[str, Any]) -> list[str]:
    """The whole beside its classifier alone, each attacked for itself."""
    if "beside" not in about:
        return []
    beside = about["beside"]
    return [
        "",
        "## Beside the same classifier without the denoiser",
        "",
        f"{beside['images']:,} images of {beside['dataset']}, epsilon {beside['epsilon']:g}; each "
        f"is attacked for itself by {', '.join(beside['attacks'])}.",
        "",
        "| | classifier alone | behind the denoiser |",
        "|---|---|---|",
        *(f"| {key} | {one:.4f} | {other:.4f} |" for key, (one, other) in beside["rows"].items()),
    ]


def _measured(about: dict[str, Any]) -> list[str]:
    if "measured" not in about:
        return []
    measured = about["measured"]
    return [
        "",
        f"## Measured on {measured['images']:,} images of {measured['dataset']}, "
        f"epsilon {measured['epsilon']}",
        "",
        "| attack | accuracy |",
        "|---|---|",
        *(f"| {key} | {value:.4f} |" for key, value in measured["accuracy"].items()),
        "",
        measured["verdict"],
    ]


def _threat(threat: ThreatModel) -> str:
    return f"{threat.norm}, epsilon {threat.epsilon:g}"


def _attack(attack: AttackSpec) -> str:
    return f"PGD-{attack.steps}" if attack.name == "pgd" else attack.name.upper()
