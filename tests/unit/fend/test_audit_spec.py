"""Requests for audits: presets, and refusals that say what to write instead."""

from typing import Any

import pytest

from fend.attacks import FGSM, PGD
from fend.audit import PRESETS, AuditSpec, AuditSpecInvalid, from_request
from fend.threat import Knowledge


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_needs_only_a_model(preset: str) -> None:
    spec = from_request({"preset": preset, "model": "mnist"})
    assert spec.knowledge == (Knowledge.GREY_BOX, Knowledge.WHITE_BOX)
    assert AuditSpec.model_validate_json(spec.model_dump_json()) == spec


def test_the_paper_preset_is_section_4_2() -> None:
    spec = from_request({"preset": "paper", "model": "mnist"})
    assert (spec.threat.norm, spec.threat.epsilon, spec.samples) == ("linf", 0.2, None)
    assert spec.attacks == (FGSM(), PGD(steps=100, step_size=0.1, random_start=True))
    assert all(attack.objective.label_source == "true" for attack in spec.attacks)


def test_what_is_said_wins_over_the_preset() -> None:
    body = {"preset": "quick", "model": "m", "samples": 7, "threat": {"norm": "l2", "epsilon": 2}}
    spec = from_request(body)
    assert (spec.samples, spec.threat.norm, spec.threat.epsilon) == (7, "l2", 2.0)
    assert spec.attacks == PRESETS["quick"]["attacks"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"preset": "fast"}, ["preset", "'fast'", "paper, quick"]),
        ({"preset": ["quick"]}, ["preset", "paper, quick"]),
        ({"model": "../secret"}, ["model"]),
        ({"knowledge": ["psychic"]}, ["knowledge.0", "grey_box", "white_box"]),
        ({"knowledge": []}, ["knowledge", "at least 1"]),
        ({"knowledge": ["white_box", "white_box"]}, ["knowledge", "twice"]),
        ({"attacks": [{"name": "magic"}]}, ["attacks.0", "'magic'", "fgsm", "pgd"]),
        ({"attacks": [{"name": "pgd", "stps": 3}]}, ["attacks.0.pgd.stps", "steps", "restarts"]),
        (
            {"attacks": [{"name": "pgd", "objective": {"los": "margin"}}]},
            ["objective.los", "label_source", "loss"],
        ),
        ({"threat": {"eps": 1}}, ["threat.eps", "epsilon, norm"]),
        ({"threat": {"epsilon": float("nan")}}, ["threat.epsilon", "finite"]),
        ({"samples": 0}, ["samples"]),
        ({"smaples": 5}, ["smaples", "samples", "seed", "shard_size"]),
    ],
)
def test_a_refusal_names_the_field_and_what_it_takes(
    change: dict[str, Any], says: list[str]
) -> None:
    with pytest.raises(AuditSpecInvalid) as refusal:
        from_request({"preset": "quick", "model": "mnist", **change})
    for words in says:
        assert words in str(refusal.value)


def test_a_bad_entry_is_the_only_complaint() -> None:
    with pytest.raises(AuditSpecInvalid) as refusal:
        from_request({"preset": "quick", "model": "mnist", "knowledge": ["psychic"]})
    assert "at least 1" not in str(refusal.value)


def test_without_a_preset_attacks_are_asked_for() -> None:
    with pytest.raises(AuditSpecInvalid, match=r"attacks: .*preset: paper, quick"):
        from_request({"model": "mnist"})
