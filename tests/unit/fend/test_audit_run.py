"""Shards on small real networks: whose gradient, who judges, and what an image's rows depend on."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fend.attacks import FGSM, PGD
from fend.audit import (
    AttackRow,
    AuditSpec,
    AuditSpecInvalid,
    CleanRow,
    Row,
    Shard,
    build_report,
    check_fit,
    open_audit,
    plan,
    run_shard,
    source_of,
)
from fend.bundle import Bundle
from fend.datasets import ImageSet, load
from fend.pipeline import Defence, frozen
from fend.threat import Knowledge, ThreatModel

GREY, WHITE = Knowledge.GREY_BOX, Knowledge.WHITE_BOX


@pytest.fixture(scope="module")
def bundle(tiny_bundle_dir: Path) -> Bundle:
    return open_audit(spec_of(), tiny_bundle_dir / "mnist", None)[0]


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load("rendered-digits", None)


def spec_of(**changes: object) -> AuditSpec:
    fields = {
        "model": "mnist",
        "dataset": "rendered-digits",
        "samples": 12,
        "threat": ThreatModel(epsilon=0.1),
        "attacks": (FGSM(), PGD(steps=5)),
        **changes,
    }
    return AuditSpec.model_validate(fields)


def with_denoiser(bundle: Bundle, denoiser: nn.Module) -> Bundle:
    defence = Defence(denoiser, bundle.defence.classifier)
    frozen(defence)
    return Bundle(bundle.manifest, defence)


def attack_rows(rows: Sequence[Row], knowledge: Knowledge, attack: int = 0) -> list[AttackRow]:
    return [
        row
        for row in rows
        if isinstance(row, AttackRow) and (row.knowledge, row.attack) == (knowledge, attack)
    ]


def run_all(spec: AuditSpec, bundle: Bundle, image_set: ImageSet) -> list[Row]:
    return [row for s in plan(spec, image_set) for row in run_shard(spec, bundle, image_set, s)]


def test_shards_hold_each_drawn_image_once(digits: ImageSet) -> None:
    spec = spec_of(samples=23, shard_size=5, seed=4)
    shards = plan(spec, digits)
    assert [len(shard.indices) for shard in shards] == [5, 5, 5, 5, 3]
    drawn = [index for shard in shards for index in shard.indices]
    assert drawn == digits.sample(23, 4).tolist()
    everything = plan(spec_of(samples=None), digits)
    assert sorted(i for shard in everything for i in shard.indices) == list(range(len(digits)))


def test_results_do_not_depend_on_the_shards(bundle: Bundle, digits: ImageSet) -> None:
    one, many = spec_of(shard_size=12), spec_of(shard_size=5)
    source = source_of(bundle, digits)
    a = build_report(one, source, run_all(one, bundle, digits)).model_dump(exclude={"spec"})
    b = build_report(many, source, run_all(many, bundle, digits)).model_dump(exclude={"spec"})
    for line in (*a["lines"], *b["lines"]):  # float rounding may show in the distances
        line["mean_distance"] = round(line["mean_distance"], 5)
        line["max_distance"] = round(line["max_distance"], 5)
    assert a == b


def test_the_same_seed_gives_the_same_rows_and_another_does_not(
    bundle: Bundle, digits: ImageSet
) -> None:
    shard = Shard(0, tuple(range(6)))
    spec = spec_of(attacks=(PGD(steps=2, early_stop=False),))
    first = run_shard(spec, bundle, digits, shard)
    assert run_shard(spec, bundle, digits, shard) == first
    assert run_shard(spec.model_copy(update={"seed": 1}), bundle, digits, shard) != first


class Fixed(nn.Module):
    """Replaces every image by one picture: nothing that an attacker does can matter."""

    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        self.register_buffer("picture", picture)

    def forward(self, images: Tensor) -> Tensor:
        picture: Tensor = self.picture  # type: ignore[assignment]
        return picture.expand_as(images) + 0.0 * images


def test_an_attack_is_judged_on_the_whole_pipeline(bundle: Bundle, digits: ImageSet) -> None:
    defended = with_denoiser(bundle, Fixed(digits.pixels(slice(0, 1))))
    zeros = tuple((digits.labels == 0).nonzero().flatten()[:8].tolist())
    spec = spec_of(knowledge=(GREY,), threat=ThreatModel(epsilon=0.3), attacks=(FGSM(),))
    rows = attack_rows(run_shard(spec, defended, digits, Shard(0, zeros)), GREY)
    fooled = [row for row in rows if row.attacked_model_fooled]
    assert fooled, "the classifier alone falls for the attack"
    assert {row.answer for row in rows} == {0}, "what is served does not"
    assert {row.undefended_answer for row in fooled}.isdisjoint({0})


class Staircase(nn.Module):
    """Rounds pixels: it hides the gradient and changes little."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 8).round() / 8


def test_the_gradient_goes_through_what_the_attacker_knows(
    bundle: Bundle, digits: ImageSet
) -> None:
    spec = spec_of(attacks=(FGSM(),))
    rows = run_shard(spec, with_denoiser(bundle, Staircase()), digits, Shard(0, (0, 1, 2)))
    assert all(row.distance > 0 for row in attack_rows(rows, GREY))
    assert all(row.distance == 0 for row in attack_rows(rows, WHITE))


def test_grey_box_attacks_never_stop_early(bundle: Bundle, digits: ImageSet) -> None:
    spec = spec_of(threat=ThreatModel(epsilon=0.3), attacks=(PGD(steps=10, early_stop=True),))
    report = build_report(spec, source_of(bundle, digits), run_all(spec, bundle, digits))
    grey, white = report.lines
    assert grey.backward_passes == 12 * 10
    assert white.backward_passes < 12 * 10
    assert [getattr(line.attack, "early_stop", None) for line in report.lines] == [False, True]


class NaNOnBright(nn.Module):
    """Breaks down as soon as an image is brighter than it was."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean((1, 2, 3), keepdim=True) > self.limit
        return torch.where(bright, torch.full_like(images, math.nan), images)


def test_a_nan_answer_is_no_answer(bundle: Bundle, digits: ImageSet) -> None:
    images = digits.pixels(slice(0, 4))
    brittle = with_denoiser(bundle, NaNOnBright(float(images.mean((1, 2, 3)).max()) + 1e-4))
    spec = spec_of(knowledge=(GREY,), attacks=(FGSM(),))
    rows = run_shard(spec, brittle, digits, Shard(0, (0, 1, 2, 3)))
    assert all(row.answer is not None for row in rows if isinstance(row, CleanRow))
    assert any(row.answer is None and row.confidence is None for row in attack_rows(rows, GREY))


def test_stop_cancels_between_attack_steps(bundle: Bundle, digits: ImageSet) -> None:
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_shard(spec_of(attacks=(PGD(steps=50),)), bundle, digits, Shard(0, (0, 1)), stop)
    assert calls == 4


def test_a_data_set_that_does_not_fit_is_refused(bundle: Bundle) -> None:
    wide = ImageSet(
        "wide", torch.zeros(2, 1, 28, 30, dtype=torch.uint8), torch.tensor([0, 1]), ("0", "1")
    )
    with pytest.raises(AuditSpecInvalid, match=r"28, 30.*28, 28"):
        check_fit(bundle.manifest, wide)
    pets = ImageSet(
        "pets", torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "dog")
    )
    with pytest.raises(AuditSpecInvalid, match="cat, dog"):
        check_fit(bundle.manifest, pets)
