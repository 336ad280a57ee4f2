"""Adversarial training of the whole pipeline, with the paper's loss on the denoiser.

Images are made at each step through the current denoiser and classifier. With `[online]` only the
denoiser learns from them and the classifier stays unchanged; with `[joint]` both learn.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fend.models import build
from fend.pipeline import Defence, frozen
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
    loss_fn.calibrate(splits.train.pixels(slice(0, 1_000)).to(device))
    features = FeatureCache(loss_fn.targets, len(splits.train), context.loss.cache_bytes)

    def loss(indices: Tensor, step: StepContext) -> dict[str, Tensor]:
        clean = splits.train.pixels(indices).to(device)
        labels = splits.train.labels[indices].to(device)
        attacked = make_adversarial(adversarial, defence, clean, labels, step)
        if not joint:
            classifier.eval()  # its batch statistics stay unchanged as well
        both = defence.denoiser(torch.cat([clean, attacked]))
        clean_logits, logits = defence.classifier(both).chunk(2)
        kept, denoised = both.chunk(2)
        task = pair_terms(adversarial, clean_logits, logits, labels)
        return {
            **{name: task_weight * term for name, term in task.items() if task_weight},
            **loss_fn.terms(denoised, clean, features.get(indices, clean)),
            "clean_pixel": clean_weight * F.mse_loss(kept, clean),
        }

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
    )
