"""Epsilon that grows as a training goes on: networks learn small perturbations first."""

from fend.threat import ThreatModel


def grown(threat: ThreatModel, progress: float, ramp: float) -> tuple[ThreatModel, float]:
    """The threat model at `progress` 0..1 of a training, and the share of epsilon that it allows.

    Epsilon grows evenly from 0 over the part `ramp` of the training.
    """
    share = min(1.0, progress / ramp) if ramp else 1.0
    return threat.model_copy(update={"epsilon": threat.epsilon * share}), share
