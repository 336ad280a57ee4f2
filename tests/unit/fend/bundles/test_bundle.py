import hashlib
import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from refusals import code
from safetensors.torch import load_file
from small_bundles import save

from fend.bundles import Smoothing, annotate, card_of, load_bundle, read_manifest
from fend.bundles.add import add_bundle
from fend.errors import Invalid, Unavailable
from fend.models import build


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "tiny"
    _save(place, seed=0)
    return place


def _save(place: Path, seed: int, smoothing: Smoothing | None = None):
    torch.manual_seed(seed)
    denoiser = ("paper-autoencoder", {}, build("paper-autoencoder", {}))
    about = {"recipe": {"name": "tiny"}}
    return save(
        place, name="tiny", denoiser=denoiser, smoothing=smoothing, about=about, card="# tiny\n"
    )


def _edit(folder: Path, change) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def _edit_content(folder: Path, change) -> None:
    """Another content with the digest that it then has: a bundle from a broken exporter."""

    def sealed(manifest) -> None:
        change(manifest["content"])
        text = json.dumps(manifest["content"], sort_keys=True, separators=(",", ":"))
        manifest["version"] = "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    _edit(folder, sealed)


def _resave(folder: Path, data: bytes) -> None:
    """Other weights of the classifier, with the digests that they then have."""
    (folder / "classifier.safetensors").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    _edit_content(folder, lambda content: content["classifier"].update(sha256=digest))


def test_what_is_saved_answers_the_same_after_loading(tmp_path) -> None:
    manifest = _save(tmp_path / "tiny", seed=0)
    bundle = load_bundle(tmp_path / "tiny")
    torch.manual_seed(0)
    denoiser, classifier = build("paper-autoencoder", {}), build("paper-lenet", {})
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(bundle.defence(images), classifier(denoiser(images)))
    assert bundle.manifest == manifest
    assert not any(p.requires_grad for p in bundle.defence.parameters())
    assert not bundle.defence.training


def test_the_version_is_the_content_and_nothing_else(folder, tmp_path) -> None:
    version = read_manifest(folder).version
    assert _save(tmp_path / "again", seed=0).version == version
    assert _save(tmp_path / "other", seed=1).version != version
    assert annotate(folder, {"note": "measured"}, "# card\n").version == version
    assert load_bundle(folder).manifest.about == {"note": "measured"}


def test_the_sigma_is_of_the_content_and_others_have_none(folder, tmp_path) -> None:
    plain = read_manifest(folder)
    assert plain.content.smoothing is None
    assert "smoothing" not in (folder / "manifest.json").read_text()
    noisy = _save(tmp_path / "noisy", seed=0, smoothing=Smoothing(sigma=0.5))
    assert noisy.version != plain.version
    assert load_bundle(tmp_path / "noisy").manifest.content.smoothing == Smoothing(sigma=0.5)


def test_saving_replaces_the_whole_bundle(folder) -> None:
    (folder / "stray.txt").write_text("old")
    _save(folder, seed=1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "classifier.safetensors", "denoiser.safetensors", "manifest.json",
    ]  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_what_was_changed_is_noticed(folder) -> None:
    path = folder / "denoiser.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Unavailable, match=r"denoiser\.safetensors", check=code("bundle_corrupt")):
        load_bundle(folder)
    path.write_bytes(whole)
    _edit(folder, lambda m: m["content"]["labels"].reverse())
    with pytest.raises(Unavailable, match="edited", check=code("bundle_corrupt")):
        load_bundle(folder)


def test_missing_files_are_named(folder, tmp_path) -> None:
    with pytest.raises(Unavailable, match=r"manifest\.json", check=code("bundle_missing")):
        load_bundle(tmp_path / "nowhere")
    (folder / "classifier.safetensors").unlink()
    with pytest.raises(Unavailable, match=r"classifier\.safetensors", check=code("bundle_missing")):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("change", "named", "refusal"),
    [
        (lambda state: state.pop("head.1.bias"), r"head\.1\.bias", "bundle_incompatible"),
        (lambda state: state.update({"head.3.bias": torch.zeros(11)}), r"head\.3\.bias",
         "bundle_incompatible"),
        (lambda state: state["head.3.bias"].fill_(math.nan), "NaN", "bundle_corrupt"),
    ],
    ids=["missing", "shape", "nan"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_named(folder, change, named, refusal) -> None:
    state = load_file(folder / "classifier.safetensors")
    change(state)
    _resave(folder, safetensors.torch.save(state))
    with pytest.raises(Unavailable, match=named, check=code(refusal)):
        load_bundle(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["content"]["classifier"].update(file="../../etc/passwd.safetensors"),
        lambda m: m["content"]["classifier"].update(file="weights.pkl"),
        lambda m: m.update(format="fend-bundle/9"),
        lambda m: m["content"].update(labels=["only one"]),
        lambda m: m["about"].update(long="x" * 2**26),
        lambda m: m.update(surprise=1),
        lambda m: m.pop("version"),
    ],
)
def test_a_manifest_that_breaks_the_format_is_refused(folder, change) -> None:
    _edit(folder, change)
    with pytest.raises((Invalid, Unavailable)):
        load_bundle(folder)


def test_an_unknown_architecture_is_incompatible_not_a_crash(folder) -> None:
    _edit_content(folder, lambda c: c["denoiser"].update(architecture="from-the-future"))
    with pytest.raises(Unavailable, match="from-the-future", check=code("bundle_incompatible")):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["manifest.json", "README.md", "classifier.safetensors"])
def test_a_link_out_of_the_bundle_is_not_followed(folder, tmp_path, name) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    read = card_of if name == "README.md" else load_bundle
    with pytest.raises(Unavailable, match="symbolic link", check=code("bundle_corrupt")):
        read(folder)
    with pytest.raises(Unavailable, match="symbolic link", check=code("bundle_corrupt")):
        add_bundle(folder, tmp_path / "models")
    assert not (tmp_path / "models" / "tiny").exists()
    inside = folder / "data"
    inside.mkdir()
    (tmp_path / "elsewhere").rename(inside / name)
    (folder / name).unlink()
    (folder / name).symlink_to(inside / name)
    assert load_bundle(folder).manifest.name == "tiny"


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("1", "comes twice"),
        ("1 ", "comes twice"),
        ("", "is empty"),
        (" \u3000\t"[:2], "is empty"),
        ("\u200b", "is empty"),
        ("a\0b", "control"),
        ("a\x1b[2J", "control"),
        ("a\nb", "control"),
        ("a\u202eb", "control"),
        ("a\u2066b", "control"),
        ("x" * 201, "200 characters"),
    ],
)
def test_labels_that_cannot_be_shown_or_told_apart_are_refused(folder, label, said) -> None:
    _edit_content(folder, lambda content: content["labels"].__setitem__(0, label))
    with pytest.raises(Unavailable, match=said, check=code("bundle_corrupt")):
        load_bundle(folder)


def test_a_header_of_weights_that_would_fill_the_memory_is_not_read(folder) -> None:
    data = (folder / "classifier.safetensors").read_bytes()
    _resave(folder, (2**30).to_bytes(8, "little") + data[8:])
    with pytest.raises(Unavailable, match="header", check=code("bundle_corrupt")):
        load_bundle(folder)
