"""The admin token of a service, for the commands that talk to one."""

import os
from pathlib import Path

from fend.errors import FendError

TOKEN_VARIABLE = "FEND_ADMIN_TOKEN"


class TokenMissing(FendError):
    """There is no admin token, or it cannot be read."""

    code = "token_missing"


def admin_token(file: Path | None) -> str:
    """The token in `file`, or else in FEND_ADMIN_TOKEN.

    Raises:
        TokenMissing.
    """
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
    else:
        try:
            token = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise TokenMissing(f"--token-file: {file} cannot be read: {error}") from error
    if not token.strip():
        raise TokenMissing(
            f"--url needs the service's admin token: give --token-file, or set {TOKEN_VARIABLE}; "
            "a service without one prints one when it starts"
        )
    return token.strip()
