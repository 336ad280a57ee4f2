"""Requests for audits: presets, and refusals that say what to write instead."""

import pytest

from fend.attacks import APGD, FAB, FGSM, PGD, needs_classes
from fend.audit import PRESETS, AuditSpec, from_request
from fend.audit.levels import gradient_of, pairs
from fend.audit.render.view import preset_text
from fend.errors import Invalid
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
    with pytest.raises(Invalid, match=r"attacks\.1.*square"):
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
        ({"threat": {"epsilon": float("inf")}}, ["threat.epsilon", "finite"]),
        ({"threat": {"epsilon": -0.1}}, ["threat.epsilon", "greater than or equal to 0"]),
        ({"threat": {"epsilon": 0}}, ["threat.epsilon: 0", "more than 0"]),
        ({"threat": {"epsilon": True}}, ["threat.epsilon", "'8/255'"]),
        ({"threat": {"epsilon": 8}}, ["threat.epsilon: 8", '"8/255"']),
        ({"threat": {"epsilon": 1.5}}, ["threat.epsilon: 1.5", "0..1"]),
        ({"threat": {"epsilon": "8"}}, ["threat.epsilon: 8", '"8/255"']),
        ({"threat": {"epsilon": "1/0"}}, ["threat.epsilon", "no fraction"]),
        ({"threat": {"epsilon": "8/255/2"}}, ["threat.epsilon", "no fraction"]),
        ({"threat": {"epsilon": "small"}}, ["threat.epsilon", "'small'"]),
        ({"epsilons": [0.1, 2, 8]}, ["epsilons.1: 2", '"2/255"']),
        (
            {"attacks": [{"name": "fgsm"}, {"name": "pgd", "step_size": 2}]},
            ["attacks.1.step_size: 2", '"2/255"'],
        ),
        ({"preset": "quik"}, ["did you mean 'quick'"]),
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
def test_a_refusal_names_the_field_and_what_it_takes(change, says):
    with pytest.raises(Invalid) as refusal:
        from_request({"preset": "quick", "model": "mnist", **change})
    for words in says:
        assert words in str(refusal.value)


def test_a_bad_entry_is_the_only_complaint() -> None:
    with pytest.raises(Invalid) as refusal:
        from_request({"preset": "quick", "model": "mnist", "knowledge": ["psychic"]})
    assert "at least 1" not in str(refusal.value)


def test_without_a_preset_attacks_are_asked_for() -> None:
    with pytest.raises(Invalid, match=rf"attacks: .*preset: {PRESET_NAMES}"):
        from_request({"model": "mnist"})


def test_a_fraction_is_the_number_that_it_is() -> None:
    spec = from_request(
        {"preset": "quick", "model": "m", "threat": {"epsilon": "8/255"}, "epsilons": ["4/255", 0],
         "attacks": [{"name": "pgd", "step_size": " 2 / 255 "}]}
    )  # fmt: skip
    assert (spec.threat.epsilon, spec.epsilons) == (8 / 255, (4 / 255, 0.0))
    assert spec.attacks == (PGD(step_size=2 / 255),)


@pytest.mark.parametrize("preset", ["standard", "thorough"])
@pytest.mark.parametrize("classes", [2, 3, 4, 9, 10, 1000])
def test_a_preset_fits_itself_to_the_classes_and_to_the_norm(preset: str, classes: int) -> None:
    for norm in ("linf", "l2"):
        spec = from_request(
            {"preset": preset, "model": "m", "threat": {"norm": norm, "epsilon": 0.5}}, classes
        )
        assert all(needs_classes(attack) <= classes for attack in spec.attacks)
        assert all(norm in attack.norms for attack in spec.attacks)
        targets = {attack.targets for attack in spec.attacks if isinstance(attack, APGD | FAB)}
        assert targets <= {None, min(9, classes - 1)}
        losses = {attack.objective.loss for attack in spec.attacks}
        assert ("dlr" in losses) is (classes >= 4)
        said = preset_text(spec)
        assert said.startswith(f"{preset}, ")
        assert (f"fitted to a model of {classes} classes" in said) is (classes < 10)
        assert AuditSpec.model_validate_json(spec.model_dump_json()) == spec


def test_what_is_asked_for_is_not_fitted() -> None:
    asked = {"preset": "standard", "model": "m", "attacks": [{"name": "apgd", "targets": 9}],
             "knowledge": ["white_box"]}  # fmt: skip
    assert from_request(asked, classes=2).attacks == (APGD(targets=9),)
