import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fend.bundles import (
    Smoothing,
    SuspicionRule,
    annotate,
    card_of,
    content_version,
    load_bundle,
    read_manifest,
    save_bundle,
)
from fend.bundles.add import add_bundle
from fend.errors import FendError, Invalid, Unavailable
from fend.images import InputSpec
from fend.models import build


def code(name: str) -> Callable[[FendError], bool]:
    return lambda error: error.code == name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "tiny"
    _save(place, seed=0)
    return place


def _save(place: Path, seed: int, smoothing: Smoothing | None = None):
    torch.manual_seed(seed)
    return save_bundle(
        place,
        name="tiny",
        input_spec=InputSpec(channels=1, height_px=28, width_px=28, polarity="light_on_dark"),
        labels=[str(digit) for digit in range(10)],
        denoiser=("paper-autoencoder", {}, build("paper-autoencoder", {})),
        classifier=("paper-lenet", {}, build("paper-lenet", {})),
        suspicion=SuspicionRule(threshold=0.3, false_positive_rate=0.01),
        smoothing=smoothing,
        about={"recipe": {"name": "tiny"}},
        card="# tiny\n",
    )


def _edit(folder: Path, change) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


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


def test_a_changed_weight_is_noticed(folder) -> None:
    path = folder / "denoiser.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Unavailable, match=r"denoiser\.safetensors", check=code("bundle_corrupt")):
        load_bundle(folder)


def test_an_edited_manifest_is_noticed(folder) -> None:
    _edit(folder, lambda m: m["content"]["labels"].reverse())
    with pytest.raises(Unavailable, match="edited", check=code("bundle_corrupt")):
        load_bundle(folder)


def test_missing_files_are_named(folder, tmp_path) -> None:
    with pytest.raises(Unavailable, match=r"manifest\.json", check=code("bundle_missing")):
        load_bundle(tmp_path / "nowhere")
    (folder / "classifier.safetensors").unlink()
    with pytest.raises(Unavailable, match=r"classifier\.safetensors", check=code("bundle_missing")):
        load_bundle(folder)


def _resave_weights(folder: Path, change) -> None:
    """Weights that do not fit, with digests that do: a bundle from a broken exporter."""
    import hashlib

    from fend.bundles import Content, content_version

    path = folder / "classifier.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)

    def fix(manifest) -> None:
        content = manifest["content"]
        content["classifier"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest["version"] = content_version(Content.model_validate(content))

    _edit(folder, fix)


def test_a_missing_tensor_is_named(folder) -> None:
    _resave_weights(folder, lambda state: state.pop("head.1.bias"))
    with pytest.raises(Unavailable, match=r"head\.1\.bias", check=code("bundle_incompatible")):
        load_bundle(folder)


def test_a_tensor_of_another_shape_is_named(folder) -> None:
    _resave_weights(folder, lambda state: state.update({"head.3.bias": torch.zeros(11)}))
    with pytest.raises(Unavailable, match=r"head\.3\.bias", check=code("bundle_incompatible")):
        load_bundle(folder)


def test_nan_weights_are_refused(folder) -> None:
    _resave_weights(folder, lambda state: state["head.3.bias"].fill_(float("nan")))
    with pytest.raises(Unavailable, match="NaN", check=code("bundle_corrupt")):
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
    from fend.bundles import Content, content_version

    def change(manifest) -> None:
        manifest["content"]["denoiser"]["architecture"] = "from-the-future"
        manifest["version"] = content_version(Content.model_validate(manifest["content"]))

    _edit(folder, change)
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
    content = read_manifest(folder).content
    bad = content.model_copy(update={"labels": [label, *content.labels[1:]]})
    _edit(
        folder,
        lambda m: m.update(content=bad.model_dump(mode="json"), version=content_version(bad)),
    )
    with pytest.raises(Unavailable, match=said, check=code("bundle_corrupt")):
        load_bundle(folder)


def test_a_header_of_weights_that_would_fill_the_memory_is_not_read(folder) -> None:
    path = folder / "classifier.safetensors"
    path.write_bytes((2**30).to_bytes(8, "little") + path.read_bytes()[8:])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    content = read_manifest(folder).content
    part = content.classifier.model_copy(update={"sha256": digest})
    changed = content.model_copy(update={"classifier": part})
    _edit(
        folder,
        lambda m: m.update(
            content=changed.model_dump(mode="json"), version=content_version(changed)
        ),
    )
    with pytest.raises(Unavailable, match="header", check=code("bundle_corrupt")):
        load_bundle(folder)
