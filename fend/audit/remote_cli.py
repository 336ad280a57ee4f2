"""`fend audit MODEL --url URL`: the audit runs on that service; what is printed is the same."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fend.audit.remote import AUDITS, RemoteService
from fend.audit.report import AuditDocument
from fend.audit.rows import Row
from fend.audit.spec import AuditSpecInvalid
from fend.audit.terminal import progress

TOKEN_VARIABLE = "FEND_ADMIN_TOKEN"


def run_at(
    url: str, token_file: Path | None, body: Mapping[str, Any], with_rows: bool
) -> tuple[AuditDocument, Sequence[Row]]:
    """Start the audit that `body` asks for at `url`, show how it goes on, and fetch its report.

    The token is in `token_file`, or else in FEND_ADMIN_TOKEN. Rows are fetched if `with_rows`.

    Raises:
        AuditSpecInvalid: there is no token.
        ServiceUnreachable, ServiceRefused, AuditEndedElsewhere.
    """
    service = RemoteService(url.rstrip("/"), _token(token_file))
    audit_id = service.start(body)
    where = f"{service.url}{AUDITS}/{audit_id}"
    try:
        with progress(f"Auditing {body['model']} at {service.url}") as on_progress:
            service.follow(audit_id, on_progress)
    except KeyboardInterrupt:
        sys.stderr.write(f"\nThe audit goes on: {where} (DELETE cancels it)\n")
        raise
    rows = service.rows(audit_id) if with_rows else []
    return service.document(audit_id), rows


def _token(file: Path | None) -> str:
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
    else:
        try:
            token = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise AuditSpecInvalid(f"--token-file: {file} cannot be read: {error}") from error
    if not token.strip():
        raise AuditSpecInvalid(
            f"--url needs the service's admin token: give --token-file, or set {TOKEN_VARIABLE}; "
            "a service without one prints one when it starts"
        )
    return token.strip()
