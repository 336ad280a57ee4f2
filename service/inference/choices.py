"""Which version of each model somebody chose: `active.json` in the state folder, so that a restart
keeps it."""

import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from service.runtime.state import StateUnavailable

FILE = "active.json"


class Choice(BaseModel):
    """What somebody decided for a model."""

    model_config = ConfigDict(frozen=True)

    active: str | None
    """The version that serves; None: unloaded."""
    previous: str | None = None
    """The version that served before: where a roll back goes."""
    unloaded: str | None = None
    """Where none is active: the version that served last."""


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
