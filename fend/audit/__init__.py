"""Audits: attack a model and say honestly how robust it is.

    spec -> open_audit -> plan -> run_shard x N -> rows -> build_report

More attacks are added in `fend.attacks`, and `levels` says at which levels of knowledge they run;
another rendering is one more file beside `markdown`.
"""

from fend.audit.build import AuditRowsInvalid, build_report
from fend.audit.opened import OpenAudit, check_fit, open_audit
from fend.audit.presets import PRESETS
from fend.audit.render.markdown import to_markdown
from fend.audit.report import AuditDocument, Report, Timing
from fend.audit.rows import (
    ROWS,
    AttackRow,
    CleanRow,
    CostRow,
    CurveRow,
    ExampleRow,
    Probe,
    ProbeRow,
    Row,
    ServedRow,
    SkippedRow,
)
from fend.audit.run import run_shard
from fend.audit.shards import Shard, plan
from fend.audit.source import Source, source_of
from fend.audit.spec import AuditSpec, AuditSpecInvalid, from_request
from fend.audit.surrogates import SurrogateMissing, check_surrogate

__all__ = [
    "PRESETS", "ROWS", "AttackRow", "AuditDocument", "AuditRowsInvalid", "AuditSpec",
    "AuditSpecInvalid", "CleanRow", "CostRow", "CurveRow", "ExampleRow", "OpenAudit", "Probe",
    "ProbeRow", "Report", "Row", "ServedRow", "Shard", "SkippedRow", "Source", "SurrogateMissing",
    "Timing", "build_report", "check_fit", "check_surrogate", "from_request", "open_audit", "plan",
    "run_shard", "source_of", "to_markdown",
]  # fmt: skip
