"""The model card: a bundle's README, made from the manifest's section `about`."""

from typing import Any

from fend.audit.render.markdown import markdown_templates
from training.recipe.schema import Recipe


def model_card(name: str, about: dict[str, Any]) -> str:
    """The card of a trained bundle as Markdown; `about` is its manifest's."""
    recipe = Recipe.model_validate(about["recipe"])
    notes, held_out = _held_out(recipe, about)
    card = markdown_templates("training").get_template("card.md.j2")
    return card.render(name=name, about=about, recipe=recipe, notes=notes, held_out=held_out)


def _held_out(recipe: Recipe, about: dict[str, Any]) -> tuple[list[str], dict[str, float]]:
    """Notes on the rows, and the accuracy of each row."""
    notes = []
    if recipe.adversaries is not None:
        notes.append("Attacks on the bare classifier (grey-box)")
    if "white_box" in about["held_out"]:
        notes.append(f"`white_box` is PGD-10 through everything{_at(recipe)}, 500 images")
    not_accuracies = ("score", "verified")
    rows = {key: value for key, value in about["held_out"].items() if key not in not_accuracies}
    alone = about.get("classifier_held_out", {})
    if about.get("foreign_classifier"):
        rows["classifier alone, clean"] = alone["accuracy"]
    if "white_box" in alone:
        section = recipe.classifier.adversarial
        assert section is not None, "it was trained adversarially"
        notes.append(
            "the classifier's `white_box` is PGD-10 on it alone at "
            f"{section.threat.epsilon:g}, 500 images"
        )
        name = "classifier alone" if recipe.joint is None else "classifier at the start"
        rows[f"{name}, clean"] = alone["accuracy"]
        rows[f"{name}, white_box"] = alone["white_box"]
    return notes, rows


def _at(recipe: Recipe) -> str:
    """The epsilon of a pipeline's `white_box` figure, in words."""
    if recipe.ibp is not None:
        return f" at {recipe.ibp.tested_epsilon:g}"
    if (made := recipe.joint or recipe.online) is not None:
        return f" at {made.adversarial.threat.epsilon:g}"
    return "" if recipe.adversaries is None else f" at {recipe.adversaries.threat.epsilon:g}"
