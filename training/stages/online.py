"""Adversarial training of the whole pipeline, with the paper's loss on the denoiser.

Images are made at each step through the current denoiser and classifier. With `[online]` only the
denoiser learns from them and the classifier stays unchanged; with `[joint]` both learn.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fend.models import build
from fend.pipeline import Defence, frozen
from training.augment import augmented
from training.evaluate import accuracy, white_box_accuracy
from training.loop import Fit, StepContext, fit
from training.losses.adversarial import make_adversarial, pair_terms
from training.losses.cache import FeatureCache
from training.losses.feature_loss import FeatureLoss
from training.recipe.schema import OnlineSection
from training.stages.stage import Context, Outcome


def train_online(section: OnlineSection, classifier: nn.Module, context: Context) -> Outcome:
    """The stage of `[online]`: only the denoiser learns."""
    job = online_fit(section, classifier, context.feature_loss(classifier), context, joint=False)
    return _train("denoiser", job, Defence(job.module, classifier), context)


def train_jointly(section: OnlineSection, classifier: nn.Module, context: Context) -> Outcome:
    """The stage of `[joint]`: denoiser and classifier learn together."""
    job = online_fit(section, classifier, context.feature_loss(classifier), context, joint=True)
    assert isinstance(job.module, Defence)
    return _train("denoiser and classifier", job, job.module, context)


def _train(learning: str, job: Fit, defence: Defence, context: Context) -> Outcome:
    context.console.print(
        f"[bold]{learning}[/] {context.denoiser.architecture}: {job.epochs} epochs on images made "
        "through the whole pipeline"
    )
    fitted = fit(
        job, context.run_dir, resume=context.resume, cut=context.cut, console=context.console
    )
    frozen(defence)
    return Outcome(defence.denoiser, defence.classifier, fitted.figures, fitted.epochs)


def online_fit(
    online: OnlineSection,
    classifier: nn.Module,
    loss_fn: FeatureLoss,
    context: Context,
    *,
    joint: bool,
) -> Fit:
    """The training of a fresh denoiser in front of `classifier`, or (`joint`) of both.

    Equation 4 applies to the adversarial images, as in the paper; clean ones are compared in pixels
    only, which costs no pass of the loss network.
    """
    section, splits, device = context.denoiser, context.splits, context.device
    adversarial, clean_weight = online.adversarial, online.clean_weight
    task_weight = 1.0 if joint else context.loss.task_weight
    torch.manual_seed(context.seed + 1)
    denoiser = build(section.architecture, section.config).to(device)
    if joint:
        classifier.requires_grad_(True)
    else:
        frozen(classifier)
    defence = Defence(denoiser, classifier)
    loss_fn.calibrate(splits.train, device)
    # An augmented image is new at each step: nothing of it can be kept.
    cache_bytes = context.loss.cache_bytes if context.augment is None else 0
    features = FeatureCache(loss_fn.targets, len(splits.train), cache_bytes)
    shows_clean = adversarial.kind != "madry" or clean_weight > 0

    def loss(indices: Tensor, step: StepContext) -> dict[str, Tensor]:
        clean = splits.train.pixels(indices).to(device)
        if context.augment is not None:
            clean = augmented(clean, context.augment, step.generator)
        labels = splits.train.labels[indices].to(device)
        attacked = make_adversarial(adversarial, defence, clean, labels, step)
        if not joint:
            classifier.eval()  # its batch statistics stay unchanged as well
        shown = torch.cat([clean, attacked]) if shows_clean else attacked
        cleaned = defence.denoiser(shown)
        answers = defence.classifier(cleaned)
        # Where no clean image is shown, both names are of the attacked ones.
        (kept, denoised), (clean_logits, logits) = (
            (each[: len(clean)], each[-len(clean) :]) for each in (cleaned, answers)
        )
        task = pair_terms(adversarial, clean_logits, logits, labels)
        terms = {
            **{name: task_weight * term for name, term in task.items() if task_weight},
            **loss_fn.terms(denoised, clean, features.get(indices, clean)),
        }
        if clean_weight:
            terms["clean_pixel"] = clean_weight * F.mse_loss(kept, clean)
        return terms

    def validate(module: nn.Module) -> dict[str, float]:
        whole = module if joint else Defence(module, classifier).eval()
        figures = {
            "clean": accuracy(whole, splits.held_out),
            "white_box": white_box_accuracy(whole, splits.held_out, adversarial.threat),
        }
        return figures | {"score": sum(figures.values()) / len(figures)}

    return Fit(
        defence if joint else denoiser,
        section.optimiser,
        section.epochs,
        section.batch_size,
        len(splits.train),
        context.seed + 1,
        loss,
        validate,
        average=section.average,
        precision=torch.bfloat16 if section.precision else torch.float32,
    )
