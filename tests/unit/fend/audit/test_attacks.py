"""Every attack by its name in an audit: accepted, run at its levels, told apart in a report."""

from pathlib import Path
from typing import Any, get_args

import pytest

from fend.attacks import AttackSpec
from fend.audit import AuditSpec, OpenAudit, from_request, open_audit, run_shard, shards_of
from fend.audit.levels import runs_at
from fend.audit.rows import AttackRow
from fend.threat import Knowledge

QUICK: dict[str, dict[str, Any]] = {
    "steps": {"steps": 3},
    "queries": {"queries": 5},
    "draws": {"draws": 2},
}
"""Budgets by the option that holds them."""

CLASSES: list[Any] = list(get_args(get_args(AttackSpec)[0]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_audit_runs_every_attack_by_name(tiny_bundle_dir: Path, norm: str) -> None:
    attacks = [
        {"name": kind().name} | next((QUICK[o] for o in QUICK if o in kind.model_fields), {})
        for kind in CLASSES
        if norm in kind.norms
    ]
    request = {
        "model": "mnist",
        "dataset": "rendered-digits",
        "samples": 6,
        "threat": {"norm": norm, "epsilon": 0.1},
        "knowledge": list(Knowledge),
        "attacks": attacks,
        "sanity_samples": 0,
    }
    spec = from_request(request)
    assert AuditSpec.model_validate_json(spec.model_dump_json()) == spec
    alone = from_request({**request, "knowledge": ["white_box"], "attacks": [{"name": "fgsm"}]})
    found = open_audit(alone, tiny_bundle_dir / "mnist", None)
    opened = OpenAudit(spec, found.bundle, found.image_set, surrogate=found.bundle)
    (shard,) = shards_of(spec, opened.image_set)
    rows = run_shard(opened, shard)
    ran = {(row.knowledge, row.attack) for row in rows if isinstance(row, AttackRow)}
    assert ran == set(opened.plan.lines)
    assert all(any(runs_at(kind(), level) for level in Knowledge) for kind in CLASSES)
