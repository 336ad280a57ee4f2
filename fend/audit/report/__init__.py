"""From rows to a report, and two reports side by side."""

from fend.audit.plan import attack_title
from fend.audit.report.report import (
    AuditDocument,
    ClassLine,
    Clean,
    CurvePoint,
    Example,
    Headline,
    Identity,
    Line,
    Report,
    Served,
    Share,
    Threat,
    Timing,
    interval,
    threat_text,
)
from fend.audit.rows.statistics import percent
from fend.audit.sanity.finding import SanityAdvice, SanityLine

__all__ = [
    "AuditDocument", "ClassLine", "Clean", "CurvePoint", "Example", "Headline", "Identity", "Line",
    "Report", "SanityAdvice", "SanityLine", "Served", "Share", "Threat", "Timing", "attack_title",
    "interval", "percent", "threat_text",
]  # fmt: skip
