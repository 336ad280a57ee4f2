"""`fend bundle add`: a bundle from anywhere into a folder of models, whole or not at all."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import small_bundles
import torch
from refusals import code
from typer.testing import CliRunner

from fend.bundles import load_bundle, read_manifest
from fend.bundles.add import add_bundle
from fend.bundles.versions import find_bundle
from fend.cli.bundle import app
from fend.errors import Invalid, Unavailable
from fend.models import build

FILES = ["README.md", "classifier.safetensors", "denoiser.safetensors", "manifest.json"]


def save(place: Path, seed: int, **changes) -> None:
    """A bundle `tiny` at `place`."""
    torch.manual_seed(seed)
    denoiser = ("paper-autoencoder", {}, build("paper-autoencoder", {}))
    small_bundles.save(place, **{"name": "tiny", "denoiser": denoiser, "card": "#", **changes})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save(tmp_path / "trained" / "tiny", seed=0)
    return tmp_path / "trained" / "tiny"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models with another version of `tiny`."""
    save(tmp_path / "models" / "tiny", seed=1)
    return tmp_path / "models"


def zipped(source: Path, target: Path, top: str) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            archive.writestr(top + name, (source / name).read_bytes())
        for left in ("__MACOSX/._manifest.json", "Thumbs.db", "@eaDir/README.md", "Icon\r"):
            archive.writestr(left, b"x")
    return target


def tarred(source: Path, target: Path, top: str, mode: str) -> Path:
    with tarfile.open(target, mode) as archive:
        archive.add(source, top.rstrip("/") or ".")
    return target


@pytest.mark.parametrize("top", ["", "tiny/", "./some/", "some\\"])
@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_it_comes_from_a_folder_or_an_archive(source, models, tmp_path, kind, top) -> None:
    packed = tmp_path / f"packed.{kind}"
    (source / "stray.txt").write_text("not of the bundle")
    (source / "stray.safetensors").write_bytes(b"x")
    if kind == "folder":
        packed = source
    elif kind == "zip":
        zipped(source, packed, top)
    else:
        tarred(source, packed, top, "w:gz" if kind == "tar.gz" else "w")
    folder, manifest = add_bundle(packed, models)
    assert folder == models / "tiny" / "versions" / manifest.version.removeprefix("sha256:")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert load_bundle(folder).manifest == read_manifest(source)
    assert not list(models.glob(".adding-*"))
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / "manifest.json").stat().st_mode & 0o777 == 0o644


def test_a_new_model_is_found_by_its_name(source, tmp_path) -> None:
    folder, manifest = add_bundle(source, tmp_path / "new")
    assert find_bundle("tiny", tmp_path / "new") == (folder, manifest)
    save(source, seed=2)
    add_bundle(source, tmp_path / "new")
    with pytest.raises(Unavailable, match="several versions", check=code("bundle_missing")):
        find_bundle("tiny", tmp_path / "new")


def test_the_same_version_again_is_refused(source, models) -> None:
    add_bundle(source, models)
    with pytest.raises(Invalid, match=r"versions/[0-9a-f]{64}", check=code("bundle_exists")):
        add_bundle(source, models)
    with pytest.raises(Invalid, match="models/tiny;", check=code("bundle_exists")):
        add_bundle(models / "tiny", models)


def test_training_again_keeps_the_versions_that_were_added(source, models) -> None:
    folder, _ = add_bundle(source, models)
    save(models / "tiny", seed=3)
    assert load_bundle(folder).manifest == read_manifest(source)


def test_what_does_not_work_is_not_put_in_place(source, models, tmp_path) -> None:
    before = sorted(models.rglob("*"))
    huge = build("paper-lenet", {})
    with torch.no_grad():
        for weights in huge.parameters():
            weights.fill_(1e30)
    save(tmp_path / "huge", seed=0, classifier=("paper-lenet", {}, huge))
    save(tmp_path / "labels", seed=0, labels=["no", "yes"])
    three = small_bundles.DIGITS.model_copy(update={"channels": 3})
    save(tmp_path / "channels", seed=0, input_spec=three)
    for name, said in (("huge", "no finite answer"), ("labels", "10 classes"), ("channels", "fit")):
        with pytest.raises(Unavailable, match=said, check=code("bundle_incompatible")):
            add_bundle(tmp_path / name, models)
    weights = source / "denoiser.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(
        Unavailable, match=r"trained/tiny/denoiser\.safetensors", check=code("bundle_corrupt")
    ):
        add_bundle(source, models)
    weights.unlink()
    with pytest.raises(
        Unavailable, match=r"denoiser\.safetensors is missing", check=code("bundle_missing")
    ):
        add_bundle(source, models)
    for nothing in (tmp_path / "nowhere", tmp_path / "trained"):
        with pytest.raises(Unavailable, check=code("bundle_missing")):
            add_bundle(nothing, models)
    assert sorted(path for path in models.rglob("*") if path.name != ".adding.lock") == before


def entry(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> tuple:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, "/etc/passwd"
    return info, data


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([entry("../manifest.json")], "no path inside"),
        ([entry("/manifest.json")], "no path inside"),
        ([entry("..\\manifest.json")], "no path inside"),
        ([entry("C:\\manifest.json")], "no path inside"),
        ([entry("manifest.json", b"", tarfile.SYMTYPE)], "a link"),
        ([entry("manifest.json", b"", tarfile.LNKTYPE)], "a link"),
        ([entry("manifest.json", b"", tarfile.FIFOTYPE)], "a link"),
        ([entry("manifest.json"), entry("manifest.json")], "twice"),
        ([entry("a/manifest.json"), entry("b/README.md")], "several bundles"),
        ([entry("a/b/manifest.json")], "no bundle"),
    ],
)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_cannot_write_elsewhere(models, tmp_path, entries, said, kind) -> None:
    before = sorted(tmp_path.rglob("*"))
    packed = tmp_path / f"evil.{kind}"
    if kind == "tar":
        with tarfile.open(packed, "w") as archive:
            for info, data in entries:
                archive.addfile(info, io.BytesIO(data))
    else:
        modes = {tarfile.SYMTYPE: 0o120777, tarfile.LNKTYPE: 0o120777, tarfile.FIFOTYPE: 0o10666}
        with zipfile.ZipFile(packed, "w") as archive, pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *_args, **_more: None)  # of the second of a name
            for info, data in entries:
                member = zipfile.ZipInfo(info.name)
                member.external_attr = modes.get(info.type, 0o100644) << 16
                archive.writestr(member, data)
    with pytest.raises((Invalid, Unavailable), match=said):
        add_bundle(packed, models)
    packed.unlink()
    lock = models / ".adding.lock"
    assert sorted(path for path in tmp_path.rglob("*") if path != lock) == before


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "folder"])
def test_a_bomb_is_refused(source, models, tmp_path, kind) -> None:
    (source / "denoiser.safetensors").write_bytes(bytes(50_000_000))
    packed = tmp_path / f"bomb.{kind}"
    if kind == "zip":
        zipped(source, packed, "")
    elif kind == "tar.gz":
        tarred(source, packed, "", "w:gz")
    else:
        packed = source
    with pytest.raises(Invalid, match="1000000 bytes", check=code("bundle_too_large")):
        add_bundle(packed, models, max_bytes=1_000_000)


def test_a_bomb_in_what_is_skipped_is_refused_too(models, tmp_path) -> None:
    packed = tmp_path / "bomb.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        info, data = entry("other", bytes(50_000_000))
        archive.addfile(info, io.BytesIO(data))
        info, data = entry("named", b"")
        info.pax_headers = {"comment": "x" * 10_000_000}
        archive.addfile(info)
    with pytest.raises(Invalid, check=code("bundle_too_large")):
        add_bundle(packed, models, max_bytes=1_000_000)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(1001):
            archive.writestr(str(number), b"")
    with pytest.raises(Invalid, match="1000 entries", check=code("bundle_too_large")):
        add_bundle(tmp_path / "many.zip", models)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_that_ends_early_is_damaged(source, models, tmp_path, kind) -> None:
    whole = tmp_path / f"whole.{kind}"
    if kind == "zip":
        zipped(source, whole, "")
    else:
        tarred(source, whole, "", "w:gz" if kind == "tar.gz" else "w")
    data = whole.read_bytes()
    for length in (0, 1, 10, 300, 1000, len(data) // 2, len(data) - 30_000):
        whole.write_bytes(data[:length])
        with pytest.raises((Invalid, Unavailable)):
            add_bundle(whole, models)


def test_a_folder_that_cannot_be_written_is_said(source, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Invalid, match="nothing was changed", check=code("models_dir_unusable")):
        add_bundle(source, tmp_path / "file")


KILLED = """
import os, signal, sys
from pathlib import Path
from fend.bundles.add import add_bundle

source, models = Path(sys.argv[1]), Path(sys.argv[2])
STEPS = ("open", "os.mkdir", "os.rename", "os.chmod", "os.remove", "os.rmdir", "shutil.rmtree")

def add_and_die(step):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in STEPS and any(str(models) in str(argument) for argument in arguments):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    add_bundle(source, models)

step, died = 0, True
while died:
    step += 1
    child = os.fork()
    if child == 0:
        add_and_die(step)
        os._exit(0)
    died = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    visible = [str(p.relative_to(models)) for p in sorted(models.glob("[!.]*/**/*.*"))]
    print(step, died, " ".join(visible), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
@pytest.mark.parametrize("known", [True, False])
def test_killed_at_any_step_it_leaves_all_or_nothing(source, tmp_path, known) -> None:
    models = tmp_path / "models"
    if known:
        save(models / "tiny", seed=1)
    models.mkdir(exist_ok=True)
    before = " ".join(str(p.relative_to(models)) for p in sorted(models.glob("[!.]*/**/*.*")))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, source, models], capture_output=True, text=True
    )
    digest = read_manifest(source).version.removeprefix("sha256:")
    added = " ".join(
        sorted([*before.split(), *(f"tiny/versions/{digest}/{name}" for name in FILES)])
    )
    steps = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert len(steps) > 15, done.stdout + done.stderr
    nothing = [step for step in steps if step[1:] == ["True", before]]
    assert len(nothing) > 12
    assert all(step[2] in (before, added) for step in steps), done.stdout
    assert load_bundle(models / "tiny" / "versions" / digest).manifest == read_manifest(source)


def test_the_command_adds_lists_and_refuses(source, models) -> None:
    runner, where = CliRunner(), ["--models-dir", str(models)]
    added = runner.invoke(app, ["add", str(source), *where])
    version = read_manifest(source).version
    assert added.exit_code == 0, added.output
    assert f"version: {version}" in added.output
    for asked in (["list"], ["versions", "tiny"]):
        shown = runner.invoke(app, [*asked, *where]).output
        assert version in shown
        assert read_manifest(models / "tiny").version in shown
    assert runner.invoke(app, ["versions", "other", *where]).exception.code == "bundle_missing"
    assert runner.invoke(app, ["add", str(source), *where]).exception.code == "bundle_exists"
    assert runner.invoke(app, ["add", str(source), *where, "--activate"]).exit_code == 2
    shutil.rmtree(models)
    os.mkdir(models)
    assert runner.invoke(app, ["list", *where]).exception.code == "bundle_missing"
