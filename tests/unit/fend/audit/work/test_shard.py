"""Shards on small real networks: whose gradient, who judges, and what an image's rows depend on."""

import base64
import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_bundles import save
from torch import Tensor, nn

from fend.attacks import APGD, FGSM, PGD, Gradient, Noise, Objective, Square
from fend.audit import (
    AuditJob,
    AuditSpec,
    OpenAudit,
    Row,
    Shard,
    audit_report,
    check_fit,
    from_request,
    open_audit,
    run_shard,
    shards_of,
)
from fend.audit.rows import AttackRow, CleanRow, CostRow, CurveRow, ExampleRow, SkippedRow
from fend.bundles import Bundle
from fend.datasets import ImageSet, load
from fend.errors import Invalid
from fend.images import InputSpec
from fend.models import build
from fend.models.architectures.controls import RandomResize
from fend.pipeline import Defence, frozen
from fend.threat import Knowledge, ThreatModel

BLACK, GREY, AWARE, WHITE, QUERY = Knowledge


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load("rendered-digits", None)


@pytest.fixture(scope="module")
def bundle(tiny_bundle_dir: Path) -> Bundle:
    return open_audit(spec_of(), tiny_bundle_dir / "mnist", None).bundle


def spec_of(**changes: object) -> AuditSpec:
    fields = {
        "model": "mnist",
        "dataset": "rendered-digits",
        "samples": 12,
        "threat": ThreatModel(epsilon=0.1),
        "attacks": (FGSM(), PGD(steps=5)),
        "sanity_samples": 0,
        "examples": 0,
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


def run_all(opened: OpenAudit) -> list[Row]:
    return [row for s in shards_of(opened.spec, opened.image_set) for row in run_shard(opened, s)]


def test_shards_hold_each_drawn_image_once(digits: ImageSet) -> None:
    spec = spec_of(samples=23, shard_size=5, seed=4)
    shards = shards_of(spec, digits)
    assert [len(shard.indices) for shard in shards] == [5, 5, 5, 5, 3]
    drawn = [index for shard in shards for index in shard.indices]
    assert drawn == digits.sample(23, 4).tolist()
    everything = shards_of(spec_of(samples=None), digits)
    assert sorted(i for shard in everything for i in shard.indices) == list(range(len(digits)))


def test_probes_curve_and_examples_are_spread_over_the_plan_not_the_shards(digits):
    """A data set sorted by class must not be probed on its first class; no shard has them all."""
    few = spec_of(samples=None, sanity_samples=10, examples=2, epsilons=(0.1,), shard_size=50)
    shards = shards_of(few, digits)
    total = len(digits)
    assert [index for shard in shards for index in sorted(shard.probed)] == [
        place * total // 10 for place in range(10)
    ]
    assert max(len(shard.probed) for shard in shards) == 1
    for name, count in (("on_curve", 500), ("shown", 2), ("shown_if_fooled", 8)):
        assert sum(len(getattr(shard, name)) for shard in shards) == count
    other = shards_of(few.model_copy(update={"shard_size": 7}), digits)
    for name in ("probed", "on_curve", "shown", "shown_if_fooled"):
        assert set().union(*(getattr(shard, name) for shard in shards)) == set().union(
            *(getattr(shard, name) for shard in other)
        )
    more = shards_of(spec_of(samples=3, sanity_samples=10), digits)
    assert len(more[0].probed) == 3, "no more than there are"


def test_results_do_not_depend_on_the_shards(bundle: Bundle, digits: ImageSet) -> None:
    changes = {"sanity_samples": 4, "examples": 1, "epsilons": (0.0, 0.2), "cascade": True}

    def told(shard_size: int) -> Counter[str]:
        rows = run_all(OpenAudit(spec_of(shard_size=shard_size, **changes), bundle, digits))
        return Counter(_without_rounding(row) for row in rows if not isinstance(row, CostRow))

    assert told(12) == told(5)


def _without_rounding(row: Row) -> str:
    """What must not change with the batch; float rounding may."""
    loose = {"confidence", "undefended_confidence", "distance", "late_gain", "value"}
    pictures = {"clean_png", "adversarial_png", "denoised_png"}
    return row.model_dump_json(exclude=loose | pictures)


def test_the_same_seed_gives_the_same_rows_and_another_does_not(bundle, digits):
    shard = Shard(0, tuple(range(6)), probed=frozenset((0, 1)), shown=frozenset((3,)))
    spec = spec_of(attacks=(PGD(steps=2, early_stop=False),))
    first = run_shard(OpenAudit(spec, bundle, digits), shard)
    assert run_shard(OpenAudit(spec, bundle, digits), shard) == first
    other = OpenAudit(spec.model_copy(update={"seed": 1}), bundle, digits)
    assert run_shard(other, shard) != first


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
    rows = attack_rows(run_shard(OpenAudit(spec, defended, digits), Shard(0, zeros)), GREY)
    fooled = [row for row in rows if row.attacked_model_fooled]
    assert fooled, "the classifier alone falls for the attack"
    assert {row.answer for row in rows} == {0}, "what is served does not"
    assert {row.undefended_answer for row in fooled}.isdisjoint({0})


class Staircase(nn.Module):
    """Rounds pixels: it hides the gradient and changes little."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 8).round() / 8


def test_the_gradient_goes_through_what_the_attacker_knows(bundle, digits):
    """A gradient moves the image; one that a staircase has swallowed does not."""
    past = FGSM(gradient=Gradient(denoiser="identity"))
    spec = spec_of(knowledge=(BLACK, GREY, AWARE, WHITE), attacks=(FGSM(), past))
    dead_end = nn.Sequential(Staircase(), bundle.defence.classifier)
    hidden = with_denoiser(bundle, Staircase())
    open_classifier = Bundle(bundle.manifest, frozen(Defence(nn.Identity(), dead_end)))

    def moved(audited: Bundle, surrogate: Bundle) -> dict[tuple[Knowledge, int], bool]:
        opened = OpenAudit(spec, audited, digits, surrogate)
        rows = [r for r in run_shard(opened, Shard(0, (0, 1, 2))) if isinstance(r, AttackRow)]
        return {(row.knowledge, row.attack): row.distance > 0 for row in rows}

    assert moved(hidden, bundle) == {
        (BLACK, 0): True, (GREY, 0): True, (AWARE, 0): True, (AWARE, 1): True,
        (WHITE, 0): False, (WHITE, 1): True,
    }  # fmt: skip
    assert moved(bundle, hidden) == {
        (BLACK, 0): True, (GREY, 0): True, (AWARE, 0): False, (AWARE, 1): True,
        (WHITE, 0): True, (WHITE, 1): True,
    }  # fmt: skip
    assert moved(bundle, open_classifier) == {
        (BLACK, 0): False, (GREY, 0): True, (AWARE, 0): False, (AWARE, 1): False,
        (WHITE, 0): True, (WHITE, 1): True,
    }  # fmt: skip


def test_attacks_that_must_transfer_never_stop_early(bundle: Bundle, digits: ImageSet) -> None:
    """They fool the attacked classifier long before the pipeline."""
    spec = spec_of(threat=ThreatModel(epsilon=0.3), attacks=(PGD(steps=10, early_stop=True),))
    rows = run_all(OpenAudit(spec, bundle, digits))
    grey, white = (row for row in rows if isinstance(row, CostRow))
    assert grey.backward_passes == 12 * 10
    assert white.backward_passes < 12 * 10


def test_query_attacks_take_no_gradient_and_ask_the_pipeline(bundle, digits):
    square = spec_of(knowledge=(QUERY,), threat=ThreatModel(epsilon=0.4), attacks=(Square(),))
    spec = square.model_copy(update={"attacks": (Square(queries=60),)})
    opened = OpenAudit(spec, with_denoiser(bundle, Staircase()), digits)
    rows = run_shard(opened, Shard(0, tuple(range(8))))
    [cost] = [row for row in rows if isinstance(row, CostRow)]
    assert cost.backward_passes == 0
    fooled = [row for row in attack_rows(rows, QUERY) if row.answer != row.label]
    assert fooled, "no staircase stops an attack that needs no gradient"
    assert all(row.attacked_model_fooled for row in fooled)


def test_a_cascade_skips_what_its_own_level_has_broken_and_loses_nothing(bundle, digits):
    attacks = (FGSM(), PGD(steps=5), APGD(steps=5, objective=Objective(loss="dlr")))
    plain = spec_of(threat=ThreatModel(epsilon=0.15), attacks=attacks, samples=24)
    whole = run_all(OpenAudit(plain, bundle, digits))
    spec = plain.model_copy(update={"cascade": True})
    rows = run_all(OpenAudit(spec, bundle, digits))
    skipped_any = False
    for level in (GREY, WHITE):
        broken: set[int] = set()
        for number in range(len(attacks)):
            ran = attack_rows(rows, level, number)
            skipped = {
                row.index
                for row in rows
                if isinstance(row, SkippedRow) and (row.knowledge, row.attack) == (level, number)
            }
            assert skipped == broken
            assert {row.index for row in ran} == {
                r.index for r in attack_rows(whole, level)
            } - skipped
            broken |= {row.index for row in ran if row.answer != row.label}
            skipped_any = skipped_any or bool(skipped)
        assert broken == {
            row.index
            for number in range(len(attacks))
            for row in attack_rows(whole, level, number)
            if row.answer != row.label
        }, "the worst case of a level is the same"
    assert skipped_any
    assert _passes(rows) < _passes(whole)


def _passes(rows: Sequence[Row]) -> int:
    return sum(row.forward_passes for row in rows if isinstance(row, CostRow))


def test_a_cascade_with_nothing_left_still_says_so(bundle: Bundle, digits: ImageSet) -> None:
    nothing = with_denoiser(bundle, Fixed(torch.zeros(1, 1, 28, 28)))
    answer = int(nothing.defence(torch.zeros(1, 1, 28, 28)).argmax())
    wrong = tuple((digits.labels != answer).nonzero().flatten()[:3].tolist())
    spec = spec_of(knowledge=(WHITE,), cascade=True)
    rows = run_shard(OpenAudit(spec, nothing, digits), Shard(0, wrong))
    assert [row.index for row in rows if isinstance(row, SkippedRow)] == list(wrong)
    costs = [row for row in rows if isinstance(row, CostRow)]
    assert [(row.attack, row.forward_passes > 0) for row in costs] == [(0, True), (1, False)]


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
    spec = spec_of(knowledge=(GREY,), attacks=(FGSM(),), sanity_samples=4, examples=4)
    shard = Shard(0, (0, 1, 2, 3), probed=frozenset((0, 1, 2, 3)), shown=frozenset((0, 1, 2, 3)))
    rows = run_shard(OpenAudit(spec, brittle, digits), shard)
    assert all(row.answer is not None for row in rows if isinstance(row, CleanRow))
    assert any(row.answer is None and row.confidence is None for row in attack_rows(rows, GREY))
    for row in rows:
        assert "NaN" not in row.model_dump_json()


def test_examples_are_kept_at_every_line_and_more_where_an_attack_won(bundle, digits):
    spec = spec_of(threat=ThreatModel(epsilon=0.15), attacks=(FGSM(), PGD(steps=5)))
    everyone = tuple(range(12))
    shard = Shard(0, everyone, shown=frozenset((3,)), shown_if_fooled=frozenset(everyone))
    rows = run_shard(OpenAudit(spec, bundle, digits), shard)
    right = {r.index for r in rows if isinstance(r, CleanRow) and r.answer == r.label}
    expected = {
        (row.knowledge, row.attack, row.index)
        for row in rows
        if isinstance(row, AttackRow)
        and (row.index == 3 or (row.index in right and row.answer != row.label))
    }
    examples = [row for row in rows if isinstance(row, ExampleRow)]
    assert {(row.knowledge, row.attack, row.index) for row in examples} == expected
    assert len(expected) > 4
    for row in examples:
        clean, adversarial = (_pixels(png) for png in (row.clean_png, row.adversarial_png))
        assert torch.equal(clean, digits.pixels(slice(row.index, row.index + 1))[0])
        assert 0 < float((adversarial - clean).abs().max()) <= 0.15 + 0.5 / 255 + 1e-6
        assert _pixels(row.denoised_png).shape == clean.shape


def test_the_curve_attacks_each_epsilon_and_the_bare_classifier_for_itself(bundle, digits):
    spec = spec_of(knowledge=(GREY,), attacks=(FGSM(),), epsilons=(0.0, 0.4))
    opened = OpenAudit(spec, with_denoiser(bundle, Fixed(digits.pixels(slice(0, 1)))), digits)
    rows = run_all(opened)
    clean = {row.index: row for row in rows if isinstance(row, CleanRow)}
    curve = [row for row in rows if isinstance(row, CurveRow)]
    assert Counter(row.epsilon for row in curve) == {0.0: 12, 0.4: 12}
    for row in curve:
        assert row.answer == clean[row.index].answer, "nothing gets past this denoiser"
        if row.epsilon == 0:
            assert row.undefended_answer == clean[row.index].undefended_answer
    fallen = [row for row in curve if row.epsilon == 0.4 and row.undefended_answer != row.label]
    assert len(fallen) > 6


def test_a_random_pipeline_is_noticed_and_its_rows_can_be_repeated(bundle, digits):
    spec = spec_of(knowledge=(WHITE,), attacks=(PGD(steps=3), Noise(draws=2)), sanity_samples=2)
    random = OpenAudit(spec, with_denoiser(bundle, RandomResize(0.6)), digits)
    assert random.randomised
    assert not OpenAudit(spec, bundle, digits).randomised
    shard = Shard(0, tuple(range(5)), probed=frozenset((1, 2)))
    first = run_shard(random, shard)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert run_shard(random, shard) == first
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers are its own"
    [cost, *_] = [row for row in first if isinstance(row, CostRow)]
    assert cost.backward_passes == 5 * 3, "no lucky draw ends an attack"


def test_an_averaged_gradient_costs_what_it_costs(bundle: Bundle, digits: ImageSet) -> None:
    once, often = PGD(steps=3), PGD(steps=3, gradient=Gradient(samples=4))
    spec = spec_of(knowledge=(GREY,), attacks=(once, often))
    rows = run_shard(OpenAudit(spec, bundle, digits), Shard(0, (0, 1)))
    one, four = (row for row in rows if isinstance(row, CostRow))
    assert four.forward_passes == 4 * one.forward_passes
    assert four.backward_passes == 4 * one.backward_passes == 4 * 2 * 3


@pytest.mark.parametrize("changes", [{}, {"sanity_samples": 2}, {"epsilons": (0.1,)}], ids=str)
def test_stop_cancels_between_attack_steps(bundle, digits, changes):
    spec = spec_of(attacks=(PGD(steps=5, early_stop=False),), **changes)
    shard = Shard(0, (0, 1), frozenset((0, 1)) if "sanity_samples" in changes else frozenset(),
                  frozenset((0, 1)) if "epsilons" in changes else frozenset())  # fmt: skip
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    run_shard(OpenAudit(spec, bundle, digits), shard, count)
    assert calls > 10
    last = calls
    calls = 0

    def stop() -> None:
        count()
        if calls == last:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_shard(OpenAudit(spec, bundle, digits), shard, stop)


def test_a_data_set_that_does_not_fit_is_refused(bundle: Bundle) -> None:
    wide = ImageSet(
        "wide", torch.zeros(2, 1, 28, 30, dtype=torch.uint8), torch.tensor([0, 1]), ("0", "1")
    )
    with pytest.raises(Invalid, match=r"28, 30.*28, 28"):
        check_fit(spec_of(), bundle.manifest, wide)
    pets = ImageSet(
        "pets", torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "dog")
    )
    with pytest.raises(Invalid, match="cat, dog"):
        check_fit(spec_of(), bundle.manifest, pets)


def test_a_part_of_the_classes_in_another_order_is_matched_by_label(bundle):
    pixels = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    some = ImageSet("some", pixels, torch.tensor([0, 1]), ("7", "3"))
    matched = check_fit(spec_of(), bundle.manifest, some)
    assert matched.labels.tolist() == [7, 3]
    assert list(matched.label_names) == bundle.labels


def test_shards_hold_no_more_images_than_memory_allows(digits):
    spec = spec_of(samples=20, shard_size=10)
    sizes = [len(shard.indices) for shard in shards_of(spec, digits, 3)]
    assert sizes == [3, 3, 3, 3, 3, 3, 2]
    assert [len(shard.indices) for shard in shards_of(spec, digits)] == [10, 10]


def test_an_attack_that_needs_more_classes_is_refused_early(bundle, digits):
    spec = spec_of(knowledge=(WHITE,), attacks=(FGSM(), APGD(targets=10)))
    with pytest.raises(Invalid, match=r"attacks\.1: apgd .*11 classes.*has 10"):
        check_fit(spec, bundle.manifest, digits)


@pytest.mark.parametrize("classes", [2, 3])
def test_presets_run_on_a_model_of_few_classes(tmp_path: Path, classes: int) -> None:
    torch.manual_seed(classes)
    config = {"classes": classes, "channels": 1, "size_px": 8, "convolutions": [[4, 3, 1]],
              "hidden": [8]}  # fmt: skip
    labels = [f"c{number}" for number in range(classes)]
    save(
        tmp_path / "few", labels=labels, input_spec=InputSpec(channels=1, height_px=8, width_px=8),
        classifier=("plain-cnn", config, build("plain-cnn", config)),
    )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8), np.uint8)
    np.savez(
        tmp_path / "few.npz", images=images, labels=np.array([0, 1]), label_names=np.array(labels)
    )
    asked = {"preset": "thorough", "model": "few", "dataset": f"npz:{tmp_path / 'few.npz'}",
             "knowledge": ["grey_box", "white_box", "query"]}  # fmt: skip
    spec = from_request(asked, classes)
    short = [
        item.model_copy(update={field: 2 for field in ("steps", "restarts") if hasattr(item, field)}
                        | ({"queries": 20} if hasattr(item, "queries") else {}))
        for item in spec.attacks
    ]  # fmt: skip
    report = audit_report(
        AuditJob(spec.model_copy(update={"attacks": tuple(short)}), tmp_path / "few")
    )
    assert report.identity.n == 2
    explicit = {**asked, "knowledge": ["white_box"], "attacks": [{"name": "apgd", "targets": 9}]}
    job = AuditJob(from_request(explicit, classes), tmp_path / "few")
    with pytest.raises(Invalid, match=rf"attacks\.0: apgd .*targets up to {classes - 1}"):
        job.open()


def _pixels(png: str) -> Tensor:
    file = io.BytesIO(base64.b64decode(png))
    return torch.from_numpy(np.asarray(Image.open(file)).copy()).float().div(255)[None]
