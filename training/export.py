"""From trained networks to a bundle that the service loads, with its model card."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fend import __version__
from fend.bundle import Manifest, SuspicionRule, save_bundle
from fend.datasets import ImageSet
from fend.models import parameter_count
from fend.pipeline import Defence, suspicion
from training.data import Splits
from training.loop import Outcome
from training.recipe import Recipe

FALSE_POSITIVE_RATE = 0.01
"""The largest share of clean held-out images that may look suspicious."""

SMALLEST_THRESHOLD = 0.01
"""Of a bit. A good denoiser hardly changes a clean image; less than this is rounding, not doubt."""


def export_bundle(
    models_dir: Path,
    recipe: Recipe,
    classifier: tuple[str, dict[str, Any], nn.Module],
    denoiser: nn.Module,
    outcome: Outcome,
    splits: Splits,
) -> Manifest:
    """Write `models_dir/<recipe name>`; an older bundle of that name is replaced whole."""
    defence = Defence(denoiser, classifier[2])
    about = {
        "summary": recipe.summary,
        "recipe": recipe.model_dump(mode="json"),
        "loss_network": recipe.loss.network,
        "taps": recipe.loss.taps,
        "data": {
            "train": {
                "name": splits.train.name,
                "images": len(splits.train),
                "digest": splits.train.digest,
            },
            "held_out": {"images": len(splits.held_out), "digest": splits.held_out.digest},
        },
        "held_out": outcome.figures,
        "epochs": {"planned": recipe.denoiser.epochs, "finished": outcome.epochs},
        "parameters": {
            "denoiser": parameter_count(denoiser),
            "classifier": parameter_count(classifier[2]),
        },
        "made_with": {"fend": __version__, "torch": torch.__version__},
    }
    return save_bundle(
        models_dir / recipe.name,
        name=recipe.name,
        input_spec=recipe.input,
        labels=list(splits.train.label_names),
        denoiser=(recipe.denoiser.architecture, recipe.denoiser.config, denoiser),
        classifier=classifier,
        suspicion=_suspicion_rule(defence, splits.held_out),
        about=about,
        card=model_card(recipe.name, about),
    )


def model_card(name: str, about: dict[str, Any]) -> str:
    """The bundle's README, from what the manifest says about it."""
    recipe, data = about["recipe"], about["data"]
    threat = recipe["adversaries"]["threat"]
    attacks = ", ".join(_attack_in_words(a) for a in recipe["adversaries"]["attacks"])
    clean = " and clean images" if recipe["adversaries"]["include_clean"] else ""
    online = ""
    if recipe["online"]:
        share = f"{100 * recipe['online']['share']:.0f} %"
        made = _attack_in_words(recipe["online"]["attack"])
        online = f"; {share} of each batch by {made} through the denoiser as it learns"
    task = ""
    if recipe["loss"]["task_weight"]:
        weight = recipe["loss"]["task_weight"]
        task = f"; plus {weight:g} times the frozen classifier's cross-entropy (not in the paper)"
    taps = about["taps"] if isinstance(about["taps"], str) else ", ".join(about["taps"])
    lines = [
        f"# {name}",
        "",
        about["summary"],
        "",
        f"- Denoiser: `{recipe['denoiser']['architecture']}`, "
        f"{about['parameters']['denoiser']:,} parameters, {_epochs_in_words(about['epochs'])}.",
        f"- Classifier: {about['parameters']['classifier']:,} parameters.",
        f"- Loss: equation 4 with the loss network `{about['loss_network']}`, taps `{taps}`, "
        f"scaling `{recipe['loss']['scaling']}`{task}.",
        f"- Trained on {data['train']['images']:,} images of {data['train']['name']}, as {attacks} "
        f"({threat['norm']}, epsilon {threat['epsilon']}){clean}{online}; "
        f"{data['held_out']['images']:,} more held out for selection.",
        f"- Seed {recipe['seed']}; Fend {about['made_with']['fend']}, "
        f"torch {about['made_with']['torch']}.",
        "",
        "## Held-out accuracy",
        "",
        "Attacks on the bare classifier (grey-box); `white_box` is PGD-10 through everything, "
        "500 images.",
        "",
        "| shown | accuracy |",
        "|---|---|",
        *(f"| {key} | {value:.4f} |" for key, value in about["held_out"].items() if key != "score"),
    ]
    if "measured" in about:
        measured = about["measured"]
        lines += [
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
    return "\n".join(lines) + "\n"


def _epochs_in_words(epochs: dict[str, int]) -> str:
    if epochs["finished"] == epochs["planned"]:
        return f"{epochs['planned']} epochs"
    return f"cut short after {epochs['finished']} of {epochs['planned']} epochs"


def _attack_in_words(attack: dict[str, Any]) -> str:
    return f"PGD-{attack['steps']}" if attack["name"] == "pgd" else str(attack["name"]).upper()


@torch.no_grad()
def _suspicion_rule(defence: Defence, images: ImageSet) -> SuspicionRule:
    """The score that at most `FALSE_POSITIVE_RATE` of clean images exceed, and how many do."""
    device = next(defence.classifier.parameters()).device
    batches: list[Tensor] = []
    for indices in torch.split(torch.arange(len(images)), 500):
        answers = defence.answer(images.pixels(indices).to(device))
        batches.append(suspicion(answers.logits, answers.undefended_logits).cpu())
    scores = torch.cat(batches)
    quantile = float(torch.quantile(scores, 1 - FALSE_POSITIVE_RATE))
    threshold = max(round(quantile, 6), SMALLEST_THRESHOLD)
    flagged = float((scores > threshold).double().mean())
    return SuspicionRule(threshold=threshold, false_positive_rate=round(flagged, 6))
