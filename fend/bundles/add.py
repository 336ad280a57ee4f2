"""Add a bundle to a folder of models as a further version, wholly or not at all.

    copy --> check digests, load, answer the canary --> write to the disk --> one rename

It is prepared in a hidden folder. A program that is killed leaves at most that folder behind,
which the next call removes.
"""

import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from fend.bundles.bundle import CARD, VERSIONS, Manifest, card_of, load_bundle, read_manifest
from fend.bundles.canary import check_canary
from fend.bundles.files import MAX_BYTES, copy_bundle_files
from fend.bundles.versions import VersionUnknown, find_version
from fend.errors import Invalid, Unavailable
from fend.files import sync

_STAGING = ".adding-"
_LOCK = ".adding.lock"


def add_bundle(source: Path, models_dir: Path, max_bytes: int = MAX_BYTES) -> tuple[Path, Manifest]:
    """Put the bundle in `source` at `models_dir`/NAME/versions/DIGEST; returns that and its
    manifest. `source` is a folder or an archive, see `copy_bundle_files`.

    Waits while another process adds to the same folder.

    Raises:
        Unavailable: the bundle is not whole, or does not work; see `load_bundle`, `check_canary`.
        Invalid: `bundle_exists`, `bundle_too_large`, `archive_invalid` or `models_dir_unusable`.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(models_dir / _LOCK):
            # Nobody else is adding now: whoever made these was killed.
            for left in models_dir.glob(f"{_STAGING}*"):
                shutil.rmtree(left)
            staging = Path(tempfile.mkdtemp(dir=models_dir, prefix=_STAGING))
            try:
                return _add(source, models_dir, staging, max_bytes)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise Invalid(
            f"{source} cannot be added to {models_dir}: {error}; nothing was changed",
            code="models_dir_unusable",
        ) from error


def _add(source: Path, models_dir: Path, staging: Path, max_bytes: int) -> tuple[Path, Manifest]:
    # The path that a new model gets, so that one rename is all that is left to do.
    model = staging / "model"
    copied = model / VERSIONS / "new"
    copied.mkdir(parents=True)
    copy_bundle_files(source, copied, max_bytes)
    try:
        manifest = read_manifest(copied)
        _refuse_known(models_dir / manifest.name, manifest)
        check_canary(load_bundle(copied))
        card_of(copied)
    except UnicodeDecodeError as error:
        raise Unavailable(
            f"the card {CARD} in {source} is not UTF-8: {error}", code="bundle_corrupt"
        ) from error
    except Unavailable as error:  # its message names files of the copy
        said = str(error).replace(str(copied), str(source))
        raise Unavailable(said, code=error.code) from error
    parts = (manifest.content.denoiser, manifest.content.classifier)
    for path in copied.glob("*.safetensors"):
        if path.name not in [part.file for part in parts]:
            path.unlink()
    ready = copied.rename(copied.with_name(manifest.version.removeprefix("sha256:")))
    _to_disk(staging)
    target = models_dir / manifest.name
    if target.is_dir():
        (target / VERSIONS).mkdir(exist_ok=True)
        ready.rename(target / VERSIONS / ready.name)
        sync(target / VERSIONS)
        sync(target)
    else:
        model.rename(target)
        sync(models_dir)
    return target / VERSIONS / ready.name, manifest


def _refuse_known(model_dir: Path, manifest: Manifest) -> None:
    try:
        folder = find_version(model_dir, manifest.version)
    except VersionUnknown:
        return
    raise Invalid(
        f"{manifest.name} has the version {manifest.version} already, in {folder}; "
        "nothing was changed",
        code="bundle_exists",
    )


def _to_disk(folder: Path) -> None:
    """Make everything below `folder` readable to all and safe from a loss of power."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        sync(path)
