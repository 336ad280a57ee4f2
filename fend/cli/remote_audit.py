"""`fend audit MODEL --url URL`: the audit runs on that service; what is printed is the same."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fend.audit.render.terminal import progress
from fend.audit.report import AuditDocument
from fend.audit.rows import ROWS, Row
from fend.cli.admin_token import admin_token
from fend.client import Client, ServiceUnreachable


def run_at(
    url: str, token_file: Path | None, body: Mapping[str, Any], with_rows: bool
) -> tuple[AuditDocument, Sequence[Row], str]:
    """Start the audit that `body` asks for at `url`, show how it goes on, and fetch its report.

    Returns it with its rows, if `with_rows`, and its address. The token is in `token_file`, or else
    in FEND_ADMIN_TOKEN.

    Raises:
        Invalid: `token_missing`.
        RemoteError, ServiceUnreachable.
    """
    with Client(url, key=admin_token(token_file), timeout_s=60.0) as client:
        audit_id = client.audits.start(body).id
        where = f"{url.rstrip('/')}/v1/admin/audits/{audit_id}"
        try:
            with progress(f"Auditing {body['model']} at {url}") as on_progress:
                client.audits.follow(audit_id, on_progress)
        except KeyboardInterrupt:
            sys.stderr.write(f"\nThe audit goes on: {where} (DELETE cancels it)\n")
            raise
        rows = client.audits.rows(audit_id) if with_rows else []
        report = client.audits.report(audit_id)
    try:
        document = AuditDocument.model_validate_json(report)
        return document, ROWS.validate_python(rows), f"{where}/report"
    except ValidationError as error:
        raise ServiceUnreachable(
            f"{url} answers otherwise than this version of Fend expects; use the version there"
        ) from error
