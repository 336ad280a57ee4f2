"""A folder of models; each model has one version or many.

    models/mnist/                      a version, in the folder itself: what `fend train` writes
    models/mnist/versions/ANY-NAME/    further ones; `fend bundle add` names them by their digest

Names that begin with a dot are left alone.
"""

from pathlib import Path

from fend.bundles.bundle import MANIFEST, VERSIONS, Manifest, read_manifest
from fend.errors import FendError, NotFound, Unavailable


class VersionUnknown(NotFound):
    """No version of the model on disk has this digest."""

    code = "version_unknown"


def model_folders(models_dir: Path) -> list[Path]:
    """The folder of each model, sorted; none where `models_dir` does not exist."""
    return _folders(models_dir)


def version_folders(model_dir: Path) -> list[Path]:
    """Where the bundles of a model are: its folder itself first, then the further ones, sorted."""
    own = [model_dir] if (model_dir / MANIFEST).is_file() else []
    return own + _folders(model_dir / VERSIONS)


def find_version(model_dir: Path, version: str) -> Path:
    """The folder with the bundle of this digest.

    Raises:
        VersionUnknown.
    """
    for folder in version_folders(model_dir):
        try:
            if read_manifest(folder).version == version:
                return folder
        except (FendError, OSError):
            continue  # a broken one is no match; the list of versions tells why
    raise VersionUnknown(
        f"no version {version!r} of {model_dir.name!r} is on disk; `fend bundle versions` and "
        "GET /v1/admin/models list them"
    )


def unchosen_version(model_dir: Path) -> Path:
    """The default version of a model: the one in its folder itself, or its only one.

    Raises:
        Unavailable (`bundle_missing`): there is none, or there are several further ones.
    """
    folders = version_folders(model_dir)
    if not folders:
        raise Unavailable(
            f"no bundle at {model_dir}: there is no {MANIFEST}", code="bundle_missing"
        )
    if len(folders) > 1 and folders[0] != model_dir:
        names = ", ".join(folder.name for folder in folders)
        raise Unavailable(
            f"{model_dir} has several versions, and none in the folder itself: {names}; choose one",
            code="bundle_missing",
        )
    return folders[0]


def find_bundle(model: str, models_dir: Path) -> tuple[Path, Manifest]:
    """The bundle that `model` names: its folder, or its name in `models_dir`.

    Raises:
        Unavailable: `bundle_missing` or `bundle_corrupt`.
    """
    for folder in (Path(model), models_dir / model):
        if version_folders(folder):
            chosen = unchosen_version(folder)
            return chosen, read_manifest(chosen)
    there = [folder.name for folder in model_folders(models_dir) if version_folders(folder)]
    raise Unavailable(
        f"{model!r} is neither the folder of a bundle nor one of those in {models_dir}: "
        f"{', '.join(there) or '(none)'}",
        code="bundle_missing",
    )


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(
        path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
