"""Audits: attack a model and say honestly how robust it is.

    spec -> plan -> run_shard x N -> rows -> build_report

More attacks are added in `fend.attacks`; another rendering is one more file beside `markdown`;
sanity checks are one more file that reads the same rows and feeds the verdict.
"""

from fend.audit.build import AuditRowsInvalid, build_report
from fend.audit.markdown import to_markdown
from fend.audit.report import AuditDocument, Report, Timing
from fend.audit.rows import ROWS, AttackRow, CleanRow, CostRow, Row
from fend.audit.run import Shard, check_fit, open_audit, plan, run_shard
from fend.audit.source import Source, source_of
from fend.audit.spec import PRESETS, AuditSpec, AuditSpecInvalid, from_request

__all__ = [
    "PRESETS", "ROWS", "AttackRow", "AuditDocument", "AuditRowsInvalid", "AuditSpec",
    "AuditSpecInvalid", "CleanRow", "CostRow", "Report", "Row", "Shard", "Source", "Timing",
    "build_report", "check_fit", "from_request", "open_audit", "plan", "run_shard", "source_of",
    "to_markdown",
]  # fmt: skip
