"""`fend audit MODEL --url URL`: the audit runs on that service; what is printed is the same."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fend.admin_token_cli import admin_token
from fend.audit.remote import AUDITS, RemoteService
from fend.audit.render.terminal import progress
from fend.audit.report import AuditDocument
from fend.audit.rows import Row


def run_at(
    url: str, token_file: Path | None, body: Mapping[str, Any], with_rows: bool
) -> tuple[AuditDocument, Sequence[Row]]:
    """Start the audit that `body` asks for at `url`, show how it goes on, and fetch its report.

    The token is in `token_file`, or else in FEND_ADMIN_TOKEN. Rows are fetched if `with_rows`.

    Raises:
        TokenMissing.
        ServiceUnreachable, ServiceRefused, AuditEndedElsewhere.
    """
    service = RemoteService(url.rstrip("/"), admin_token(token_file))
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
