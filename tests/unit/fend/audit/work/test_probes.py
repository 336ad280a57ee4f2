"""The sanity probes on an honest pipeline, and on ones that only look robust."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fend.attacks import APGD, FGSM, PGD, AttackSpec, Gradient, Square
from fend.audit import AuditSpec, OpenAudit, Row, Shard, open_audit, run_shard
from fend.audit.rows import Probe, ProbeRow
from fend.audit.work.batch import Batch
from fend.audit.work.probes import probe_rows
from fend.bundles import Bundle
from fend.datasets import ImageSet, load
from fend.models.architectures.controls import GradientKiller, RandomResize
from fend.pipeline import Defence, frozen
from fend.threat import Knowledge, ThreatModel

WHITE = Knowledge.WHITE_BOX
IMAGES = tuple(range(8))


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load("rendered-digits", None)


@pytest.fixture(scope="module")
def bundle(tiny_bundle_dir: Path) -> Bundle:
    return open_audit(spec_of(FGSM()), tiny_bundle_dir / "mnist", None).bundle


def spec_of(*attacks: AttackSpec, **changes: object) -> AuditSpec:
    fields = {
        "model": "mnist",
        "dataset": "rendered-digits",
        "threat": ThreatModel(epsilon=0.1),
        "knowledge": (WHITE,),
        "attacks": attacks,
        "examples": 0,
        **changes,
    }
    return AuditSpec.model_validate(fields)


def with_defence(bundle: Bundle, denoiser: nn.Module, classifier: nn.Module) -> Bundle:
    return Bundle(bundle.manifest, frozen(Defence(denoiser, classifier)))  # type: ignore[arg-type]


def probed(spec: AuditSpec, bundle: Bundle, digits: ImageSet) -> dict[Probe, list[bool]]:
    opened = OpenAudit(spec, bundle, digits)
    rows = run_shard(opened, Shard(0, IMAGES, probed=frozenset(IMAGES)))
    return by_probe(rows)


def by_probe(rows: Sequence[Row]) -> dict[Probe, list[bool]]:
    found: dict[Probe, list[bool]] = {}
    for row in rows:
        if isinstance(row, ProbeRow):
            found.setdefault(row.probe, []).append(row.passed)
    return found


def test_an_honest_pipeline_passes_what_it_should(bundle: Bundle, digits: ImageSet) -> None:
    found = probed(spec_of(PGD(steps=30, restarts=3)), bundle, digits)
    assert set(found) == set(Probe)
    assert {len(passed) for passed in found.values()} == {len(IMAGES)}
    sure = set(Probe) - {Probe.UNDEFENDED, Probe.MORE_STEPS, Probe.MORE_RESTARTS}
    assert {probe for probe in sure if not all(found[probe])} == set()


def test_only_probed_images_are_probed(bundle: Bundle, digits: ImageSet) -> None:
    opened = OpenAudit(spec_of(FGSM()), bundle, digits)
    rows = run_shard(opened, Shard(0, IMAGES, probed=frozenset((2, 5))))
    assert {row.index for row in rows if isinstance(row, ProbeRow)} == {2, 5}
    assert by_probe(run_shard(opened, Shard(0, IMAGES))) == {}


def test_without_a_white_box_line_nothing_is_said_about_doing_better(bundle, digits):
    spec = spec_of(Square(queries=5), knowledge=(Knowledge.QUERY,))
    assert set(probed(spec, bundle, digits)) == set(Probe) - {
        Probe.MORE_STEPS, Probe.MORE_RESTARTS, Probe.NOISE
    }  # fmt: skip


def test_an_audit_by_one_step_alone_is_outdone(bundle: Bundle, digits: ImageSet) -> None:
    spec = spec_of(FGSM(), threat=ThreatModel(epsilon=0.1))
    assert not all(probed(spec, bundle, digits)[Probe.MORE_STEPS])


def test_a_line_that_is_too_short_is_outdone_by_twice_its_steps(bundle, digits):
    """One step of a tenth of epsilon reaches little, two reach more, and so on up to the ball."""
    timid = PGD(steps=10, step_size=0.005, random_start=False)
    spec = spec_of(timid, threat=ThreatModel(epsilon=0.2))
    assert not all(probed(spec, bundle, digits)[Probe.MORE_STEPS])


@pytest.mark.parametrize("cut", [False, True])
def test_a_hidden_gradient_fails_the_unbounded_attack(bundle, digits, cut):
    killer = GradientKiller(bundle.defence.classifier, cut=cut)
    found = probed(spec_of(PGD(steps=5)), with_defence(bundle, nn.Identity(), killer), digits)
    assert not all(found[Probe.UNBOUNDED])
    assert not all(found[Probe.UNDEFENDED])
    assert all(found[Probe.REPEATED])


class Staircase(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images * 4).round() / 4


def test_probes_know_the_trick_that_the_lines_know(bundle: Bundle, digits: ImageSet) -> None:
    """A denoiser without a gradient is no reason for distrust where the audit goes past it."""
    stairs = with_defence(bundle, Staircase(), bundle.defence.classifier)
    blind = probed(spec_of(PGD(steps=5)), stairs, digits)
    seeing = probed(spec_of(PGD(steps=5, gradient=Gradient(denoiser="identity"))), stairs, digits)
    assert not all(blind[Probe.UNBOUNDED])
    assert all(seeing[Probe.UNBOUNDED])


def test_a_random_pipeline_is_not_repeated(bundle: Bundle, digits: ImageSet) -> None:
    random = with_defence(bundle, RandomResize(0.5), bundle.defence.classifier)
    found = probed(spec_of(PGD(steps=2)), random, digits)
    assert not any(found[Probe.REPEATED])
    assert not all(found[Probe.STABLE])


def test_probabilities_are_no_logits(bundle: Bundle, digits: ImageSet) -> None:
    soft = with_defence(
        bundle, nn.Identity(), nn.Sequential(bundle.defence.classifier, nn.Softmax(1))
    )
    assert not any(probed(spec_of(FGSM()), soft, digits)[Probe.LOGITS])


class Flip(nn.Module):
    """Answers right on the very image, and wrong anywhere near it."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.register_buffer("images", images)
        self.register_buffer("labels", labels)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        known: Tensor = self.images  # type: ignore[assignment]
        labels: Tensor = self.labels  # type: ignore[assignment]
        same = (images.flatten(1)[:, None] == known.flatten(1)[None]).all(2)
        logits = torch.zeros(len(images), 10) + 0.0 * images.flatten(1).sum(1, keepdim=True)
        hit = same.any(1)
        logits[hit, labels[same[hit].float().argmax(1)]] = 5.0
        return logits


def test_noise_that_does_better_than_the_lines_is_told(bundle: Bundle, digits: ImageSet) -> None:
    """Without a gradient PGD from the image itself stays on it; any random point would do."""
    few = torch.tensor(IMAGES)
    brittle = with_defence(bundle, nn.Identity(), Flip(digits.pixels(few), digits.labels[few]))
    found = probed(spec_of(PGD(steps=3, random_start=False)), brittle, digits)
    wrong = [bool(label) for label in digits.labels[few]]  # all-zero logits answer 0
    assert [not passed for passed in found[Probe.NOISE]] == wrong
    assert any(wrong)
    assert not any(found[Probe.STABLE])


def test_the_unbounded_ball_has_its_like_in_l2(bundle: Bundle, digits: ImageSet) -> None:
    spec = spec_of(APGD(steps=5), threat=ThreatModel(norm="l2", epsilon=1.0))
    assert all(probed(spec, bundle, digits)[Probe.UNBOUNDED])


def test_nothing_to_probe_is_no_work(bundle: Bundle, digits: ImageSet) -> None:
    opened = OpenAudit(spec_of(FGSM()), bundle, digits)

    def stop() -> None:
        raise AssertionError("an attack was run")

    assert probe_rows(opened, Batch.of(opened, ()), set(), stop) == []
