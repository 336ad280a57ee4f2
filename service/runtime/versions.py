"""The versions of a model on disk, and which of them is active.

    models/mnist/                    a version, in the folder itself
    models/mnist/versions/ANY-NAME/  further ones

Which one serves is in `active.json` in the state folder, so that a restart keeps it.
"""

import json
import os
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from fend.bundle import MANIFEST, read_manifest
from fend.errors import FendError
from service.runtime.audit_tables import StateUnavailable

VERSIONS = "versions"
FILE = "active.json"


class VersionUnknown(FendError):
    """No version of the model on disk has this digest."""

    code: ClassVar[str] = "version_unknown"


class Choice(BaseModel):
    """What somebody decided for a model."""

    model_config = ConfigDict(frozen=True)

    active: str | None
    """The version that serves; None: unloaded."""
    previous: str | None = None
    """The version that served before: where a roll back goes."""


_CHOICES = TypeAdapter(dict[str, Choice])


class Choices:
    """The file of decisions; a model without one serves what is in its folder itself."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE

    def read(self) -> dict[str, Choice]:
        """All decisions, by model.

        Raises:
            StateUnavailable.
        """
        try:
            return _CHOICES.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            raise StateUnavailable(
                f"{self._path} cannot be read: {error}; repair it, or delete it to serve what is "
                "in the folder of each model itself"
            ) from error

    def write(self, name: str, choice: Choice) -> None:
        """Keep the decision for one model; whole or not at all.

        Raises:
            StateUnavailable.
        """
        choices = self.read() | {name: choice}
        text = json.dumps({key: value.model_dump() for key, value in choices.items()}, indent=2)
        staging = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with staging.open("w") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(staging, self._path)
        except OSError as error:
            staging.unlink(missing_ok=True)
            raise StateUnavailable(
                f"{self._path} cannot be written: {error}; nothing was changed; make room on its "
                "disk and try again"
            ) from error


def version_folders(model_dir: Path) -> list[Path]:
    """Where the bundles of a model are: its folder itself first, then the further ones, sorted."""
    further = model_dir / VERSIONS
    folders = further.iterdir() if further.is_dir() else ()
    return [
        *([model_dir] if (model_dir / MANIFEST).is_file() else []),
        *sorted(path for path in folders if path.is_dir() and not path.name.startswith(".")),
    ]


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
        f"no version {version!r} of {model_dir.name!r} is on disk; GET /v1/admin/models lists them"
    )
