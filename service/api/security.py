"""Who may use the admin routes: whoever has the token."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from fend.errors import FendError
from service.settings import Settings, SettingsError


class Unauthorized(FendError):
    """No token, or a wrong one."""

    code: ClassVar[str] = "unauthorized"


@dataclass(frozen=True)
class AdminToken:
    """The token and where it is from."""

    secret: SecretStr
    source: str
    generated: bool = False

    def matches(self, candidate: str) -> bool:
        """Compare in constant time, whatever the lengths."""
        ours = hashlib.sha256(self.secret.get_secret_value().encode()).digest()
        theirs = hashlib.sha256(candidate.encode()).digest()
        return hmac.compare_digest(ours, theirs)


def admin_token(settings: Settings) -> AdminToken:
    """The configured token; with none configured, a new one.

    Raises:
        SettingsError: two are configured, one is empty, or its file cannot be read.
    """
    token, file = settings.admin_token, settings.admin_token_file
    if token is not None and file is not None:
        raise SettingsError("admin_token and admin_token_file are both set; keep one of them")
    if file is not None:
        try:
            token = SecretStr(file.read_text().strip())
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"admin_token_file: cannot read {file}: {error}") from error
    if token is None:
        return AdminToken(SecretStr(secrets.token_urlsafe(24)), "this start", generated=True)
    if not token.get_secret_value().strip():
        raise SettingsError("the admin token is empty; set one that is hard to guess, or none")
    return AdminToken(token, "--admin-token or FEND_ADMIN_TOKEN" if file is None else str(file))


_bearer = HTTPBearer(auto_error=False, scheme_name="admin", description="The admin token.")


async def require_admin(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Let the request pass when it carries the admin token.

    Raises:
        Unauthorized: it does not.
    """
    token: AdminToken = request.app.state.admin_token
    if credentials is None or not token.matches(credentials.credentials):
        raise Unauthorized(
            "this route needs the admin token: send the header Authorization: Bearer <token>"
        )
