"""Denoise, then classify: the one object that is trained for, served and attacked."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Answers:
    """What the pipeline says of a batch of N images."""

    denoised: Tensor
    """(N,C,H,W), close to [0, 1]."""
    logits: Tensor
    """(N, classes), of the denoised images: the answer."""
    undefended_logits: Tensor
    """(N, classes), of the images as they came, for comparison."""


class Defence(nn.Module):
    """A denoiser in front of a classifier (the paper, section 3.3).

    Fully differentiable: a white-box attacker may take its gradient, and our audits do.
    """

    def __init__(self, denoiser: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to logits (N, classes)."""
        logits: Tensor = self.classifier(self.denoiser(images))
        return logits

    def answer(self, images: Tensor) -> Answers:
        """Both answers, with and without the denoiser, in one pass of the classifier."""
        denoised = self.denoiser(images)
        both = self.classifier(torch.cat([denoised, images]))
        logits, undefended_logits = both.chunk(2)
        return Answers(denoised, logits, undefended_logits)


def frozen(module: nn.Module) -> nn.Module:
    """`module` in eval mode and without parameter gradients: how it is served and attacked."""
    return module.eval().requires_grad_(False)


def suspicion(logits: Tensor, undefended_logits: Tensor) -> Tensor:
    """How far the answers with and without the denoiser disagree: (N,) in [0, 1].

    The Jensen-Shannon divergence of the two distributions, in bits. A signal for monitoring,
    not a defence: an attacker who knows of it can keep it low.
    """
    log_p = F.log_softmax(logits, dim=1)
    log_q = F.log_softmax(undefended_logits, dim=1)
    log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
    divergence = 0.5 * ((log_p.exp() * (log_p - log_m)) + (log_q.exp() * (log_q - log_m))).sum(1)
    return (divergence / torch.log(torch.tensor(2.0))).clamp(0.0, 1.0)
