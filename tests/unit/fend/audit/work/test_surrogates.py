"""The attacker's own model: found by name, kept from before, made on demand, or refused."""

import shutil
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from small_bundles import DIGITS, save

from fend.audit import AuditSpec, check_surrogate, open_audit, run_shard, shards_of, source_of
from fend.audit.rows import AttackRow
from fend.audit.work import surrogates as module
from fend.bundles import Manifest, load_bundle, read_manifest
from fend.errors import Invalid
from fend.models import build
from fend.threat import Knowledge

BLACK, WHITE = Knowledge.BLACK_BOX, Knowledge.WHITE_BOX


@pytest.fixture
def models_dir(tiny_bundle_dir: Path, tmp_path: Path) -> Path:
    """`mnist`, `other` with networks of its own, and `twin` with the classifier of `mnist`."""
    folder = tmp_path / "models"
    shutil.copytree(tiny_bundle_dir / "mnist", folder / "mnist")
    make_bundle(folder / "mnist", folder / "other", seed=3)
    make_bundle(folder / "mnist", folder / "twin", seed=None)
    make_bundle(folder / "mnist", folder / "letters", seed=3, labels="abcdefghij")
    make_bundle(folder / "mnist", folder / "wide", seed=3, height_px=30)
    return folder


def make_bundle(
    like: Path, out: Path, seed: int | None, labels: str | None = None, **size: int
) -> None:
    """Another bundle for the same task, untrained; `seed` None: with the same classifier."""
    classifier = load_bundle(like).defence.classifier
    if seed is not None:
        torch.manual_seed(seed)
        classifier = build("paper-lenet", {})
    input_spec = DIGITS.model_copy(update=size)
    parts = {"classifier": ("paper-lenet", {}, classifier), "input_spec": input_spec}
    save(out, **parts, **({} if labels is None else {"labels": list(labels)}))


def spec_of(**changes: Any) -> AuditSpec:
    fields = {
        "model": "mnist",
        "dataset": "rendered-digits",
        "samples": 2,
        "knowledge": [BLACK],
        "attacks": [{"name": "fgsm"}],
        "sanity_samples": 0,
        **changes,
    }
    return AuditSpec.model_validate(fields)


@pytest.fixture
def manifest(models_dir: Path) -> Manifest:
    return read_manifest(models_dir / "mnist")


def test_a_named_surrogate_is_attacked_and_told(models_dir: Path) -> None:
    opened = open_audit(spec_of(surrogate="other"), models_dir / "mnist", None)
    source = source_of(opened)
    assert source.surrogate == "other"
    assert source.surrogate_version == read_manifest(models_dir / "other").version
    [shard] = shards_of(opened.spec, opened.image_set)
    rows = [row for row in run_shard(opened, shard) if isinstance(row, AttackRow)]
    assert {(row.knowledge, row.distance > 0) for row in rows} == {(BLACK, True)}


def test_without_a_level_that_needs_one_there_is_none(models_dir: Path) -> None:
    opened = open_audit(spec_of(knowledge=[WHITE]), models_dir / "mnist", None)
    assert opened.surrogate is None
    assert source_of(opened).surrogate is None


@pytest.mark.parametrize(
    ("name", "says"), [("twin", "very classifier"), ("letters", "classes"), ("wide", "28, 28")]
)
def test_a_surrogate_that_cannot_stand_in_is_refused(models_dir, manifest, name, says):
    with pytest.raises(Invalid, match=f"^surrogate: .*{says}"):
        check_surrogate(spec_of(surrogate=name), manifest, models_dir, None)


def test_a_name_that_is_not_there_lists_those_that_are(models_dir, manifest):
    with pytest.raises(Invalid, match=r"'nobody'.*other, twin") as refusal:
        check_surrogate(spec_of(surrogate="nobody"), manifest, models_dir, None)
    assert refusal.value.code == "surrogate_missing"
    assert "mnist," not in str(refusal.value)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """An installed trainer that only draws weights; what it was called with."""
    calls: list[dict[str, Any]] = []

    def train(bundle_dir: Path, out_dir: Path, *, data_dir: Path | None, seed: int) -> None:
        calls.append({"bundle_dir": bundle_dir, "data_dir": data_dir, "seed": seed})
        make_bundle(bundle_dir, out_dir, seed)

    class Entry(EntryPoint):
        def load(self) -> Any:
            return train

    monkeypatch.setattr(module, "_maker", lambda: Entry("train", "x:y", module.ENTRY_POINTS))
    return calls


def test_a_surrogate_is_made_once_for_a_version_of_the_model(
    models_dir, manifest, tmp_path, trainer
):
    kept = tmp_path / "kept"
    told: list[Path] = []

    def open_again(seed: int) -> str | None:
        opened = open_audit(
            spec_of(seed=seed), models_dir / "mnist", None, surrogates_dir=kept,
            on_making=told.append,
        )  # fmt: skip
        return source_of(opened).surrogate_version

    assert check_surrogate(spec_of(), manifest, models_dir, kept) is None, "still to be made"
    first = open_again(0)
    assert first is not None
    assert open_again(1) == first
    assert len(trainer) == len(told) == 1
    assert trainer[0]["seed"] != 0, "another seed than recipes use"
    assert check_surrogate(spec_of(), manifest, models_dir, kept) == told[0]
    # Another version of the model, another surrogate.
    make_bundle(models_dir / "other", models_dir / "mnist", seed=9)
    assert open_again(0) is not None
    assert len(trainer) == 2


def test_where_none_can_be_made_the_refusal_says_what_to_do(
    models_dir, manifest, tmp_path, monkeypatch
):
    with pytest.raises(Invalid, match="black_box"):
        check_surrogate(spec_of(), manifest, models_dir, None)
    monkeypatch.setattr(module, "_maker", lambda: None)
    with pytest.raises(Invalid, match=r"`surrogate`.*fend\[train\].*`knowledge`"):
        open_audit(spec_of(), models_dir / "mnist", None, surrogates_dir=tmp_path)


@pytest.mark.parametrize(
    ("requires", "able"),
    [
        (['torch>=2; extra == "train"', 'nosuchpackage>=1; extra == "dev"'], True),
        (['nosuchpackage>=1; extra == "train"'], False),
        (["nosuchpackage>=1; extra == 'train'"], False),
    ],
)
def test_a_trainer_without_its_extra_is_no_trainer(monkeypatch, requires, able):
    """The package is always installed; what its extra brings is not."""

    class Distribution:
        def __init__(self) -> None:
            self.requires = requires

    entry = EntryPoint("train", "training.surrogate:train_surrogate", module.ENTRY_POINTS)
    vars(entry)["dist"] = Distribution()
    monkeypatch.setattr(module, "entry_points", lambda **_: [entry])
    assert (module._maker() is not None) == able
