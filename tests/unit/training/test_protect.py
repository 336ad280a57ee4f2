"""`fend protect`: any classifier, a folder of photographs, one command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fend.audit import from_request
from fend.audit.spec import defaults_of
from fend.bundles import load_bundle, read_manifest
from fend.cli.main import main
from fend.errors import Invalid
from training.protect.cost import Cost
from training.protect.data import data_specs
from training.recipe.files import load_recipe
from training.recipe.smaller import surrogate_recipe

CODE = """
import torch
from torch import nn

def photos():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 5),
    )
"""
LABELS = ("ant", "bee", "cat", "dog", "emu")
SAID = ("mine:photos", "--size", "40x48", "--labels", "labels.txt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: code, labels, and photographs of three of the five classes."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(CODE)
    (folder / "labels.txt").write_text("\n".join(LABELS))
    draw = np.random.default_rng(0)
    for label in ("Emu", "bee", "cat"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(8):
            pixels = draw.integers(0, 256, (50 + number, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / label / f"{number}.jpg")
    return folder


@pytest.fixture
def fend(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Runs a command in the user's folder: its exit code, and what it printed."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FEND_DATA_DIR", raising=False)
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fend", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capfd.readouterr()
        return int(exit_.value.code or 0), printed.out + printed.err

    return run


class Protected(NamedTuple):
    """What the command made, and what it printed."""

    bundle: Path
    said: str


@pytest.fixture(scope="module")
def protected(folder: Path) -> Protected:
    """The classifier behind a denoiser, in miniature."""
    command = [
        Path(sys.executable).parent / "fend", "protect", *SAID, "--data", "photos", "--smoke",
        "--threads", "1",
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != "FEND_DATA_DIR"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Protected(folder / "models" / "photos-smoke", done.stdout)


def test_one_line_trains_compares_and_exports(protected: Protected, folder: Path) -> None:
    bundle, said = protected
    assert "decoding 24 pictures" in said
    assert "by a short trial" in said
    assert "without a loss network" in said
    assert "classifier alone" in said
    manifest = read_manifest(bundle)
    assert tuple(manifest.content.labels) == LABELS
    assert manifest.content.input.resize == "crop"
    beside = manifest.about["beside"]
    assert list(beside["rows"]) == ["clean", "2/255", "4/255", "8/255"]
    card = (bundle / "README.md").read_text()
    assert "taken as it is: none of its" in card
    assert "| 4/255 |" in card
    written = load_recipe(str(folder / "runs" / "photos-smoke.toml"))
    assert written.model_dump(mode="json") == manifest.about["recipe"]
    assert (written.input.height_px, written.input.width_px) == (40, 48)


def test_it_resumes_by_the_recipe_that_it_wrote(fend, protected: Protected) -> None:
    before = read_manifest(protected.bundle).version
    code, said = fend("protect", *SAID, "--data", "photos", "--smoke", "--threads", 1, "--resume")
    assert code == 0, said
    assert "decoding" not in said
    assert read_manifest(protected.bundle).version == before


def test_an_audit_takes_data_and_threat_from_the_bundle(fend, folder, protected):
    about = read_manifest(protected.bundle).about
    spec = from_request({"model": "photos-smoke", "preset": "standard"}, 5, defaults_of(about))
    assert spec.dataset == f"folder:{folder / 'photos'}"
    assert spec.threat.epsilon == pytest.approx(4 / 255)
    assert spec.epsilons[4] == pytest.approx(4 / 255, abs=1e-6)
    (folder / "request.json").write_text(json.dumps({"sanity_samples": 2, "examples": 1}))
    code, said = fend(
        "audit", protected.bundle, "--spec", "request.json", "--samples", 4, "--workers", 1,
        "--output", "report.json",
    )  # fmt: skip
    assert code == 0, said
    assert "by a short trial" in said
    identity = json.loads((folder / "report.json").read_text())["result"]["identity"]
    assert identity["label_names"] == list(LABELS)
    assert identity["n"] == 4


def test_its_surrogate_is_a_small_network_of_the_same_input(protected: Protected) -> None:
    recipe = surrogate_recipe(read_manifest(protected.bundle), seed=1)
    assert recipe.classifier.architecture == "preact-resnet"
    assert recipe.classifier.config == {"classes": 5, "channels": 3, "fold": 2}
    assert recipe.classifier.factory is None


def test_a_classifier_that_may_learn_does_and_the_card_says_so(fend, folder, protected):
    code, said = fend(
        "protect", *SAID, "--data", "photos", "--smoke", "--threads", 1, "--let-classifier-learn"
    )
    assert code == 0, said
    bundle = folder / "models" / "photos-learnt-smoke"
    alone = load_file(protected.bundle / "classifier.safetensors")
    learnt = load_file(bundle / "classifier.safetensors")
    assert any(not torch.equal(alone[name], learnt[name]) for name in alone)
    card = (bundle / "README.md").read_text()
    assert "trained further, together with the denoiser" in card
    assert "Beside the classifier as it came" in card


@pytest.mark.parametrize("data", [(), ("--data", "photos")])
def test_identity_makes_a_bundle_that_serves(fend, folder: Path, data: tuple[str, ...]) -> None:
    code, said = fend("protect", *SAID, "--identity", "--name", f"as-it-is-{len(data)}", *data)
    assert code == 0, said
    loaded = load_bundle(folder / "models" / f"as-it-is-{len(data)}")
    answers = loaded.defence.answer(torch.rand(2, 3, 40, 48))
    assert torch.equal(answers.logits, answers.undefended_logits)
    assert tuple(loaded.labels) == LABELS
    assert defaults_of(loaded.manifest.about)["threat"]["norm"] == "linf"


@pytest.mark.parametrize(("files", "said"), [
    ([], "holds no images in class folders"),
    (["cat/a.png", "cat/b.png"], "images of one class, cat"),
    (["cat/a.png", "bee/"], "class folder bee holds no image"),
    (["cat/a.png", "yak/b.png"], "not among ant, bee, cat, dog, emu: yak"),
    (["cat/a.png", "bee/notes.txt", "bee/x.txt"], "2 of 3 pictures cannot be used: "),
])  # fmt: skip
def test_photographs_that_teach_nothing_are_refused_first(fend, tmp_path, files, said):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        if file.endswith("/"):
            (tmp_path / file).mkdir()
        elif file.endswith(".txt"):
            (tmp_path / file).touch()
        else:
            Image.fromarray(np.zeros((50, 60, 3), dtype=np.uint8)).save(tmp_path / file)
    code, printed = fend("protect", *SAID, "--data", tmp_path)
    assert code == 2
    assert said in printed
    assert "epoch" not in printed


def test_neither_data_nor_identity(fend) -> None:
    code, printed = fend("protect", *SAID)
    assert code == 2
    assert "--identity" in printed


class TestDataSpecs:
    def test_folders(self, tmp_path: Path) -> None:
        for name in ("train", "val", "cat"):
            (tmp_path / "both" / name).mkdir(parents=True)
        both = tmp_path / "both"
        assert data_specs(str(both)) == (f"folder:{both}",) * 2, "train may be a class"
        (both / "cat").rmdir()
        assert data_specs(str(both)) == (f"folder:{both}/train", f"folder:{both}/val")

    def test_files(self, tmp_path: Path) -> None:
        for suffix in ("csv", "parquet", "npz"):
            file = tmp_path / f"a.{suffix}"
            file.touch()
            assert data_specs(str(file)) == (f"{suffix}:{file}",) * 2
        hub = tmp_path / "hub"
        hub.mkdir()
        (hub / "train-00000-of-00001.parquet").touch()
        assert data_specs(str(hub)) == (f"parquet:{hub}",) * 2
        (hub / "validation-00000-of-00001.parquet").touch()
        assert data_specs(str(hub)) == (
            f"parquet:{hub}/train-*.parquet", f"parquet:{hub}/validation-*.parquet"
        )  # fmt: skip

    def test_names(self) -> None:
        assert data_specs("imagenette") == ("imagenette:train", "imagenette:test")
        assert data_specs("gtsrb:train") == ("gtsrb:train", "gtsrb:test")
        with pytest.raises(Invalid, match="no folder or file nowhere"):
            data_specs("nowhere")


def test_a_limit_of_time_takes_epochs_first_and_then_images() -> None:
    recipe = load_recipe("photo-online")
    cost = Cost(image_s=0.5, pass_s=0.05, memory_bytes=0)
    assert cost.within(600, recipe, 1_000) == {"denoiser": {"epochs": 60}}
    some = cost.within(120, recipe, 1_000)
    assert 3 <= some["denoiser"]["epochs"] < 60
    assert "data" not in some
    few = cost.within(20, recipe, 1_000)
    assert few["denoiser"]["epochs"] == 3
    assert 32 <= few["data"]["limit"] < 1_000
