"""The attack libraries that `benchmarks.attacks` compares, each behind one function."""

import copy
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version

import torch
from torch import Tensor, nn

from fend.attacks import APGD, FAB, PGD, Objective, Square, attack
from fend.models.image_conv import with_image_convs
from fend.threat import ThreatModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the peers' own imports warn
    # adv-lib imports visdom only to draw, and visdom does not build with current setuptools.
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    import adv_lib.attacks
    import foolbox
    import torchattacks
    from art.attacks.evasion import AutoAttack, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier


@dataclass(frozen=True)
class Problem:
    """What every library is given."""

    model: nn.Module
    """(N,C,H,W) in [0, 1] to logits."""
    pixels: Tensor
    labels: Tensor
    epsilon: float
    steps: int
    seed: int = 0

    @property
    def ours(self) -> nn.Module:
        """`model` as Fend attacks it; the same answers."""
        return with_image_convs(copy.deepcopy(self.model))

    @property
    def step_size(self) -> float:
        """On the pixel scale, the same for all."""
        return 2.5 * self.epsilon / self.steps

    def part(self, start: int, stop: int) -> "Problem":
        """The images from `start` to `stop`."""
        return replace(self, pixels=self.pixels[start:stop], labels=self.labels[start:stop])


@dataclass(frozen=True)
class Peer:
    name: str
    run: Callable[[Problem], Tensor]
    """Adversarial images for one batch."""

    @property
    def title(self) -> str:
        """Name and version."""
        distribution = {
            "Fend": "fend",
            "adversarial-library": "adv-lib",
            "ART": "adversarial-robustness-toolbox",
        }.get(self.name, self.name)  # fmt: skip
        return f"{self.name} {version(distribution)}"


def _fend(problem: Problem) -> Tensor:
    pgd = PGD(steps=problem.steps, step_size=problem.step_size)
    threat = ThreatModel(epsilon=problem.epsilon)
    found = attack(pgd, problem.ours, problem.pixels, problem.labels, threat, seed=problem.seed)
    return found.adversarial


def torchattacks_pgd(problem: Problem) -> Tensor:
    """torchattacks' PGD, with a random start."""
    pgd = torchattacks.PGD(
        problem.model, eps=problem.epsilon, alpha=problem.step_size, steps=problem.steps
    )
    adversarial: Tensor = pgd(problem.pixels, problem.labels)
    return adversarial


def _foolbox(problem: Problem) -> Tensor:
    model = foolbox.PyTorchModel(problem.model, bounds=(0, 1), device="cpu")
    pgd = foolbox.attacks.LinfPGD(abs_stepsize=problem.step_size, steps=problem.steps)
    clipped: Tensor = pgd(model, problem.pixels, problem.labels, epsilons=problem.epsilon)[1]
    return clipped


def _art_estimator(problem: Problem) -> PyTorchClassifier:
    return PyTorchClassifier(
        problem.model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(problem.pixels.shape[1:]),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def art_pgd(problem: Problem) -> Tensor:
    """ART's PGD, one random start."""
    pgd = ProjectedGradientDescentPyTorch(
        _art_estimator(problem), eps=problem.epsilon, eps_step=problem.step_size,
        max_iter=problem.steps, num_random_init=1, batch_size=len(problem.pixels), verbose=False,
    )  # fmt: skip
    return torch.from_numpy(pgd.generate(problem.pixels.numpy(), problem.labels.numpy()))


def _adversarial_library(problem: Problem) -> Tensor:
    adversarial: Tensor = adv_lib.attacks.pgd_linf(
        problem.model, problem.pixels, problem.labels, problem.epsilon, steps=problem.steps,
        absolute_step_size=problem.step_size,
    )  # fmt: skip
    return adversarial


PGD_PEERS = (
    Peer("Fend", _fend),
    Peer("adversarial-library", _adversarial_library),
    Peer("foolbox", _foolbox),
    Peer("torchattacks", torchattacks_pgd),
    Peer("ART", art_pgd),
)


def fend_standard(problem: Problem, queries: int) -> Tensor:
    """The four attacks of AutoAttack's standard version, each on what the ones before left."""
    threat = ThreatModel(epsilon=problem.epsilon)
    attacks = (
        APGD(steps=100),
        APGD(steps=100, targets=9, objective=Objective(loss="dlr")),
        FAB(steps=100, targets=9),
        Square(queries=queries),
    )
    adversarial = problem.pixels.clone()
    with torch.no_grad():
        rows = torch.nonzero(problem.model(problem.pixels).argmax(1) == problem.labels)[:, 0]
    for attacker in attacks:
        if not len(rows):
            break
        result = attack(
            attacker, problem.ours, problem.pixels[rows], problem.labels[rows], threat,
            sample_ids=rows.tolist(),
        )  # fmt: skip
        adversarial[rows[result.fooled]] = result.adversarial[result.fooled]
        rows = rows[~result.fooled]
    return adversarial


def torchattacks_standard(problem: Problem, queries: int, steps: int) -> Tensor:
    """torchattacks' port of AutoAttack; its own default is 10 steps."""
    whole = torchattacks.AutoAttack(
        problem.model, norm="Linf", eps=problem.epsilon, version="standard", n_classes=10, seed=0
    )
    *with_steps, square = whole._autoattack.attacks
    square.n_queries = queries
    for attacker in with_steps:
        attacker.steps = steps
    adversarial: Tensor = whole(problem.pixels, problem.labels)
    return adversarial.detach()


def art_standard(problem: Problem, queries: int) -> Tensor:
    """ART's AutoAttack: APGD on cross-entropy and on DLR with five restarts each, DeepFool, and
    Square, of which one restart in place of five."""
    whole = AutoAttack(
        _art_estimator(problem), eps=problem.epsilon, eps_step=problem.epsilon / 2,
        batch_size=len(problem.pixels),
    )  # fmt: skip
    square = whole.attacks[-1]
    square.set_params(max_iter=queries, nb_restarts=1, verbose=False)
    for gradient_based in whole.attacks[:-1]:
        gradient_based.set_params(verbose=False)
    return torch.from_numpy(whole.generate(problem.pixels.numpy(), problem.labels.numpy()))
