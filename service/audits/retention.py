"""What is kept of audits that have ended: raw rows of the newest, reports of more, then nothing."""

from datetime import datetime, timedelta

import structlog

from service.audits.store import AuditStore
from service.runtime.state import StateUnavailable
from service.settings import Settings


def apply_retention(store: AuditStore, settings: Settings, now: datetime) -> None:
    """Delete what the settings keep no longer; blocks for the disk.

    Trouble with the disk is logged only: the next audit's end tries again.
    """
    try:
        rows = store.drop_rows(settings.keep_audit_rows)
        audits = store.drop_audits(
            settings.keep_audits, now - timedelta(days=settings.keep_audits_days)
        )
        if rows or audits:
            store.give_back_space()
            structlog.get_logger().info("old audits deleted", audits=audits, rows_of=rows)
    except StateUnavailable as error:
        structlog.get_logger().error("old audits cannot be deleted", reason=str(error))
