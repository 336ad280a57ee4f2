"""The admin token of a service, for the commands that talk to one."""

import os
from pathlib import Path

from fend.errors import Invalid

TOKEN_VARIABLE = "FEND_ADMIN_TOKEN"


def admin_token(file: Path | None) -> str:
    """The token in `file`, or else in FEND_ADMIN_TOKEN.

    Raises:
        Invalid: `token_missing`.
    """
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
    else:
        try:
            token = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(
                f"--token-file: {file} cannot be read: {error}", code="token_missing"
            ) from error
    if not token.strip():
        raise Invalid(
            f"--url needs the service's admin token: give --token-file, or set {TOKEN_VARIABLE}; "
            "a service without one prints one when it starts",
            code="token_missing",
        )
    return token.strip()
