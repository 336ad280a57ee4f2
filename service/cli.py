"""`fend serve`: one flag for each setting, and a clear end when the service cannot start."""

import inspect
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from fend.errors import FendError
from service.settings import ModelLimits, Settings, read_settings

STARTUP_FAILURE = 3
"""Exit code when the service could not start, as uvicorn's, where the table has none."""

EXIT_CODES: Mapping[str, int] = {
    "settings_invalid": 2,  # as typer's for a bad flag
    "exposure_refused": 4,
    "port_unavailable": 5,
    "no_models": 6,
    "device_unavailable": 7,
    "state_unavailable": 8,
}
"""By the code of the error; docs/deploying.md says what to do about each."""


def serve(**flags: Any) -> None:
    """Serve models over HTTP. Flags win over FEND_* variables, which win over the defaults."""
    # Torch and FastAPI take seconds to import; `fend --help` should not wait for them.
    from service.server import run

    try:
        run(read_settings(flags))
    except FendError as error:
        sys.stderr.write(f"fend serve: {error}\n")
        raise typer.Exit(EXIT_CODES.get(error.code, STARTUP_FAILURE)) from error


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    """The flag of a setting: no default of its own, so that it cannot hide the environment's."""
    texts = (SecretStr | None, dict[str, ModelLimits], tuple[str, ...])
    kind: Any = str if field.annotation in texts else field.annotation
    default = field.get_default(call_default_factory=True)
    default = "none" if default in (None, "", ()) else default
    option = typer.Option(
        "--" + name.replace("_", "-"),
        help=f"{field.description} Default: {default}; variable FEND_{name.upper()}.",
        show_default=False,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _signature() -> inspect.Signature:
    return inspect.Signature([_flag(*item) for item in Settings.model_fields.items()])


# Typer reads the flags from the signature.
serve.__signature__ = _signature()  # type: ignore[attr-defined]
