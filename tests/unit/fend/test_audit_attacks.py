"""Every attack by its name in an audit: accepted, run at both levels, told apart in a report."""

from pathlib import Path

import pytest

from fend.attacks import APGD, FGSM, MIFGSM, PGD, AttackSpec, Noise, Objective, Square
from fend.audit import AttackRow, AuditSpec, from_request, open_audit, plan, run_shard
from fend.audit.report import attack_title
from fend.audit.run import attack_at
from fend.threat import Knowledge

REQUEST = {
    "model": "mnist",
    "dataset": "rendered-digits",
    "samples": 6,
    "threat": {"epsilon": 0.1},
    "attacks": [
        {"name": "fgsm"},
        {"name": "pgd", "steps": 3},
        {"name": "apgd", "steps": 3, "objective": {"loss": "dlr"}},
        {"name": "apgd", "steps": 3, "targets": 2},
        {"name": "mi_fgsm", "steps": 3},
        {"name": "square", "queries": 5},
        {"name": "noise", "draws": 2},
    ],
}


def test_an_audit_runs_every_attack_by_name(tiny_bundle_dir: Path) -> None:
    spec = from_request(REQUEST)
    assert AuditSpec.model_validate_json(spec.model_dump_json()) == spec
    bundle, image_set = open_audit(spec, tiny_bundle_dir / "mnist", None)
    (shard,) = plan(spec, image_set)
    rows = run_shard(spec, bundle, image_set, shard)
    ran = {(row.knowledge, row.attack) for row in rows if isinstance(row, AttackRow)}
    assert ran == {(knowledge, number) for knowledge in Knowledge for number in range(7)}


@pytest.mark.parametrize("attacker", [PGD(), APGD(), MIFGSM(), Square(), Noise()], ids=repr)
def test_grey_box_attacks_never_stop_early(attacker) -> None:
    """The classifier falls long before the pipeline does, and the pipeline decides."""
    assert attack_at(attacker, Knowledge.GREY_BOX).early_stop is False
    assert attack_at(attacker, Knowledge.WHITE_BOX) == attacker


@pytest.mark.parametrize(
    ("attacker", "title"),
    [
        (FGSM(), "FGSM"),
        (PGD(steps=40, restarts=5), "PGD-40x5"),
        (PGD(steps=40, objective=Objective(loss="margin")), "PGD-40 margin"),
        (APGD(), "APGD-100"),
        (APGD(objective=Objective(loss="dlr")), "APGD-100 dlr"),
        (APGD(targets=9, objective=Objective(loss="dlr")), "APGD-T9-100 dlr"),
        (MIFGSM(), "MI-FGSM-10"),
        (Square(queries=500), "SQUARE-500"),
        (Noise(), "NOISE-10"),
    ],
    ids=str,
)
def test_titles_tell_attacks_apart(attacker: AttackSpec, title: str) -> None:
    assert attack_title(attacker) == title
