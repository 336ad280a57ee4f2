"""An audit's work: cut into shards, each of them a pure function of its arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fend.attacks import FGSM, AttackSpec, Predict, attack
from fend.audit.rows import AttackRow, CleanRow, CostRow, Row
from fend.audit.spec import AuditSpec, AuditSpecInvalid
from fend.bundle import Bundle, Manifest, load_bundle
from fend.datasets import ImageSet, load
from fend.pipeline import Defence
from fend.threat import Knowledge

GRADIENT_THROUGH = {
    Knowledge.GREY_BOX: "classifier",
    Knowledge.WHITE_BOX: "denoiser + classifier",
}


@dataclass(frozen=True)
class Shard:
    """Some of an audit's images, to be attacked in one go."""

    number: int
    indices: tuple[int, ...]
    """Places in the data set, which seed each image's random draws."""


def open_audit(
    spec: AuditSpec, bundle_dir: Path, data_dir: Path | None, device: torch.device | str = "cpu"
) -> tuple[Bundle, ImageSet]:
    """The model and the images of an audit.

    Raises:
        BundleError, DatasetError: one of them cannot be read.
        AuditSpecInvalid: they do not fit each other.
    """
    bundle = load_bundle(bundle_dir, device)
    image_set = load(spec.dataset, data_dir)
    check_fit(bundle.manifest, image_set)
    return bundle, image_set


def check_fit(manifest: Manifest, image_set: ImageSet) -> None:
    """Raises AuditSpecInvalid when the model does not take these images or has other classes."""
    content = manifest.content
    takes = (content.input.channels, content.input.height_px, content.input.width_px)
    has = tuple(image_set.images.shape[1:])
    if has != takes:
        raise AuditSpecInvalid(
            f"dataset: {image_set.name} has images of {has} (channels, height, width), "
            f"but the model {manifest.name} takes {takes}"
        )
    names = image_set.label_names
    if list(names) != content.labels[: len(names)]:
        raise AuditSpecInvalid(
            f"dataset: the classes of {image_set.name} are {', '.join(names)}, "
            f"but those of the model {manifest.name} are {', '.join(content.labels)}"
        )


def plan(spec: AuditSpec, image_set: ImageSet) -> list[Shard]:
    """The shards of an audit; together they hold each drawn image once."""
    indices = image_set.sample(spec.samples, spec.seed).tolist()
    size = spec.shard_size
    return [
        Shard(number, tuple(indices[start : start + size]))
        for number, start in enumerate(range(0, len(indices), size))
    ]


def run_shard(
    spec: AuditSpec,
    bundle: Bundle,
    image_set: ImageSet,
    shard: Shard,
    stop: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Attack a shard's images at every knowledge level and judge them on the whole pipeline.

    An image's rows depend on the seed and its place in the data set, not on the shard it is in
    (but for float rounding). `stop` is called between attack steps and raises to cancel.

    Raises:
        AttackInvalid: an attack that cannot go on, such as one with a NaN gradient.
    """
    defence = bundle.defence
    device = next(defence.parameters()).device
    chosen = torch.tensor(shard.indices)
    images = image_set.pixels(chosen).to(device)
    labels = image_set.labels[chosen].to(device)
    rows: list[Row] = [
        CleanRow(
            index=index,
            label=label,
            answer=answer.defended,
            confidence=answer.confidence,
            undefended_answer=answer.undefended,
            undefended_confidence=answer.undefended_confidence,
        )
        for index, label, answer in zip(
            shard.indices, labels.tolist(), _answers(defence, images), strict=True
        )
    ]
    for knowledge in spec.knowledge:
        attacked = _attacked_model(defence, knowledge)
        for number, attacker in enumerate(spec.attacks):
            stop()
            result = attack(
                attack_at(attacker, knowledge), attacked, images, labels, spec.threat,
                seed=spec.seed, sample_ids=shard.indices, stop=stop,
            )  # fmt: skip
            rows += [
                AttackRow(
                    index=index,
                    label=label,
                    knowledge=knowledge,
                    attack=number,
                    attack_name=attacker.name,
                    attacked_model_fooled=fooled,
                    answer=answer.defended,
                    confidence=answer.confidence,
                    undefended_answer=answer.undefended,
                    undefended_confidence=answer.undefended_confidence,
                    distance=distance,
                )
                for index, label, fooled, distance, answer in zip(
                    shard.indices, labels.tolist(), result.fooled.tolist(),
                    result.distance.tolist(), _answers(defence, result.adversarial), strict=True,
                )
            ]  # fmt: skip
            rows.append(
                CostRow(
                    shard=shard.number,
                    knowledge=knowledge,
                    attack=number,
                    forward_passes=result.forward_passes,
                    backward_passes=result.backward_passes,
                )
            )
    return rows


def _attacked_model(defence: Defence, knowledge: Knowledge) -> Predict:
    """What the attacker takes the gradient of."""
    return defence.classifier if knowledge is Knowledge.GREY_BOX else defence


def attack_at(attacker: AttackSpec, knowledge: Knowledge) -> AttackSpec:
    """`attacker` as it is run at a level: grey-box attacks never stop early.

    The attacked classifier is fooled long before the adversarial image also survives the denoiser,
    and it is the whole pipeline that decides.
    """
    if knowledge is Knowledge.GREY_BOX and not isinstance(attacker, FGSM):
        return attacker.model_copy(update={"early_stop": False})
    return attacker


@dataclass(frozen=True)
class _Answer:
    defended: int | None
    confidence: float | None
    undefended: int | None
    undefended_confidence: float | None


def _answers(defence: Defence, images: Tensor) -> list[_Answer]:
    with torch.no_grad():
        answers = defence.answer(images)
    defended = _decide(answers.logits)
    undefended = _decide(answers.undefended_logits)
    return [_Answer(*a, *b) for a, b in zip(defended, undefended, strict=True)]


def _decide(logits: Tensor) -> list[tuple[int, float] | tuple[None, None]]:
    """The class and its probability, or nothing where a logit is NaN or infinite."""
    finite = torch.isfinite(logits).all(1).tolist()
    confidences, classes = logits.softmax(1).max(1)
    return [
        (index, confidence) if is_finite else (None, None)
        for is_finite, index, confidence in zip(
            finite, classes.tolist(), confidences.tolist(), strict=True
        )
    ]
