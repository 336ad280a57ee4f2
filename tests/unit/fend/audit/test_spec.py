"""Requests for audits: presets, and refusals that say what to write instead."""

from typing import Any

import pytest

from fend.attacks import FGSM, PGD
from fend.audit import PRESETS, AuditSpec, AuditSpecInvalid, from_request
from fend.audit.levels import gradient_of, pairs
from fend.threat import Knowledge

PRESET_NAMES = "paper, quick, standard, thorough"


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_needs_only_a_model(preset: str) -> None:
    spec = from_request({"preset": preset, "model": "mnist"})
    assert Knowledge.WHITE_BOX in spec.knowledge
    assert spec.sanity_samples > 0
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


def test_the_standard_preset_covers_every_level_and_a_curve() -> None:
    spec = from_request({"preset": "standard", "model": "mnist"})
    assert spec.knowledge == tuple(Knowledge)
    assert {level for level, _ in pairs(spec.knowledge, spec.attacks)} == set(Knowledge)
    assert (spec.samples, spec.cascade) == (1000, True)
    assert spec.epsilons[0] == 0
    assert spec.threat.epsilon in spec.epsilons
    ways = {gradient_of(attack).denoiser for attack in spec.attacks}
    assert ways == {"exact", "identity"}


def test_a_preset_is_cut_down_to_the_levels_or_attacks_that_are_asked_for() -> None:
    standard = {"preset": "standard", "model": "m"}
    narrow = from_request({**standard, "knowledge": ["query"]})
    assert all(attack.access in ("scores", "decisions") for attack in narrow.attacks)
    assert narrow.samples == 1000
    for names, levels in (
        (["noise"], (Knowledge.WHITE_BOX,)),
        (["square"], (Knowledge.QUERY,)),
        (["noise", "square"], (Knowledge.WHITE_BOX, Knowledge.QUERY)),
    ):
        asked = {**standard, "attacks": [{"name": name} for name in names]}
        assert from_request(asked).knowledge == levels
    with pytest.raises(AuditSpecInvalid, match=r"attacks\.1.*square"):
        from_request({**standard, "attacks": [{"name": "noise"}, {"name": "magic"}]})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"preset": "fast"}, ["preset", "'fast'", PRESET_NAMES]),
        ({"preset": ["quick"]}, ["preset", PRESET_NAMES]),
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
        ({"epsilons": [0.1, -1]}, ["epsilons.1", "greater than or equal to 0"]),
        ({"epsilons": [0.1, 0.1]}, ["epsilons", "twice"]),
        ({"sanity_samples": -1}, ["sanity_samples"]),
        ({"examples": 1000}, ["examples", "100"]),
        ({"attacks": [{"name": "pgd", "gradient": {"denoiser": "no"}}]}, ["gradient.denoiser"]),
        (
            {"knowledge": ["white_box"], "attacks": [{"name": "fgsm"}, {"name": "square"}]},
            ["attacks.1: square", "query", "white_box"],
        ),
        (
            {"knowledge": ["grey_box"], "attacks": [{"name": "apgd", "targets": 3}]},
            ["attacks.0: apgd", "white_box"],
        ),
        (
            {"knowledge": ["white_box", "query"], "attacks": [{"name": "fgsm"}]},
            ["knowledge: ", "query", "square"],
        ),
        (
            {
                "threat": {"norm": "l2", "epsilon": 1},
                "attacks": [{"name": "square"}],
                "knowledge": ["query"],
            },
            ["attacks.0: square", "threat.norm"],
        ),
        ({"surrogate": "other"}, ["surrogate: ", "black_box", "grey_box_aware"]),
        ({"knowledge": ["black_box"], "surrogate": "mnist"}, ["surrogate: ", "white_box"]),
        ({"knowledge": ["black_box"], "surrogate": "../x"}, ["surrogate"]),
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
    with pytest.raises(AuditSpecInvalid, match=rf"attacks: .*preset: {PRESET_NAMES}"):
        from_request({"model": "mnist"})
