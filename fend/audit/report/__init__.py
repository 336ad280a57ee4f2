"""From rows to a report, and two reports side by side."""

from fend.audit.plan import attack_title
from fend.audit.report.report import (
    AuditDocument,
    Example,
    Line,
    Report,
    Share,
    Timing,
    interval,
    threat_text,
)
from fend.audit.rows.statistics import percent
from fend.audit.sanity.finding import SanityLine

__all__ = [
    "AuditDocument", "Example", "Line", "Report", "SanityLine", "Share", "Timing", "attack_title",
    "interval", "percent", "threat_text",
]  # fmt: skip
