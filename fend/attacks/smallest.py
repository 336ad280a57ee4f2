"""The memory that attacks for the smallest perturbation share, and the objectives they take."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from fend.attacks.base import Problem
from fend.attacks.lazy import Tensor, torch
from fend.attacks.objective import Objective
from fend.threat import ThreatModel


def _margin_only(objective: Objective) -> Objective:
    if objective.loss != "margin":
        raise ValueError(
            f"loss {objective.loss!r} plays no part in an attack for the smallest perturbation; "
            "use loss 'margin'"
        )
    return objective


def _untargeted_only(objective: Objective) -> Objective:
    if objective.goal != "untargeted":
        raise ValueError("this attack looks for any wrong answer; use goal 'untargeted'")
    return objective


MarginObjective = Annotated[Objective, AfterValidator(_margin_only)]
UntargetedMargin = Annotated[MarginObjective, AfterValidator(_untargeted_only)]


@dataclass
class Smallest:
    """The smallest perturbation of each image so far that reaches the goal."""

    clean: Tensor
    """(N,C,H,W)."""
    threat: ThreatModel
    images: Tensor
    """(N,C,H,W); the clean image where there is none yet."""
    distances: Tensor
    """(N,), infinite where there is none yet."""

    @classmethod
    def of_clean(cls, problem: Problem) -> "Smallest":
        """Start with no perturbation at all for the images that the model already gets wrong."""
        reached = problem.objective.reached(problem.clean_logits, problem.labels)
        distances = torch.where(reached, 0.0, problem.images.new_tensor(torch.inf))
        return cls(problem.images, problem.threat, problem.images.clone(), distances)

    def open_rows(self, early_stop: bool) -> Tensor:
        """The rows to go on with: those that nothing smaller could help are not among them, and
        with `early_stop` neither are those with a perturbation within epsilon."""
        enough = self.threat.epsilon if early_stop else 0.0
        return (self.distances > enough).nonzero().squeeze(1)

    def offer(self, rows: Tensor, images: Tensor, reached: Tensor) -> None:
        """Keep those of `images` (n,C,H,W) that reach the goal from nearer; `rows` are distinct."""
        held = self.distances[rows]
        distances = self.threat.measure(self.clean[rows], images)
        nearer = reached & (distances < held)
        # No indexing by mask: it makes a GPU wait.
        self.images[rows] = torch.where(nearer.view(-1, 1, 1, 1), images, self.images[rows])
        self.distances[rows] = torch.where(nearer, distances, held)

    def ask(self, problem: Problem, images: Tensor, rows: Tensor) -> Tensor:
        """Whether each of `images` (n,C,H,W) reaches the goal; offered, too."""
        logits = problem.victim.logits(images, rows)
        reached = problem.objective.reached(logits, problem.labels[rows])
        self.offer(rows, images, reached)
        return reached
