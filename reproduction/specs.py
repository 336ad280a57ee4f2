"""The two audits of a cell: the paper's attacks, and the further white-box ones."""

from fend.attacks import Square
from fend.audit import AuditSpec
from fend.audit.levels import NEED_SURROGATE
from fend.threat import Knowledge, ThreatModel
from reproduction.attacks import paper_attacks, white_box_attacks, with_bypass
from reproduction.cells import Cell

HALF = 0.5


def paper_audit(cell: Cell, model: str, surrogate: str | None, epsilon: float) -> AuditSpec:
    """FGSM and PGD at each of the cell's levels, every attack on every image."""
    needs = any(level in NEED_SURROGATE for level in cell.levels)
    attacks = paper_attacks(cell.profile, epsilon)
    return AuditSpec(
        model=model,
        dataset=cell.recipe.data.test,
        samples=cell.images,
        threat=ThreatModel(norm="linf", epsilon=epsilon),
        knowledge=cell.levels,
        attacks=with_bypass(cell.recipe.denoiser.architecture, attacks),
        surrogate=surrogate if needs else None,
        sanity_samples=0,
        examples=0,
        shard_size=cell.shard,
    )


def white_box_audit(cell: Cell, model: str, epsilon: float) -> AuditSpec:
    """The further white-box attacks, each on what the one before left; and epsilon 0 and 0.5."""
    attacks = white_box_attacks(cell.profile, cell.recipe.denoiser.architecture)
    # `query` is the level that asks for answers alone; who knows everything can do that as well.
    asks = any(isinstance(item, Square) for item in attacks)
    return AuditSpec(
        model=model,
        dataset=cell.recipe.data.test,
        samples=cell.images,
        threat=ThreatModel(norm="linf", epsilon=epsilon),
        knowledge=(Knowledge.WHITE_BOX, *([Knowledge.QUERY] if asks else [])),
        attacks=attacks,
        cascade=True,
        epsilons=(0.0, HALF),
        sanity_samples=0,
        examples=0,
        shard_size=cell.shard,
    )
