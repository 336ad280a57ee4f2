"""Audits: attack a model and say honestly how robust it is.

    spec -> plan of lines -> shards -> rows -> report -> page, table

`run_audit` does it for the command line, the service, the reproduction and the benchmarks. A new
attack goes into `fend.attacks`, and `levels` says at which levels of knowledge it runs; a new check
of the attacks into `sanity`; a new place to compute into `executors`.

Reports and specs are read without torch: what needs it is imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fend.audit.presets import PRESETS
from fend.audit.render.markdown import to_markdown
from fend.audit.report import AuditDocument, Report, Timing
from fend.audit.report.build import build_report
from fend.audit.rows import ROWS, Row, Source
from fend.audit.spec import AuditSpec, from_request, spec_invalid

if TYPE_CHECKING:
    from fend.audit.executors import Executor, Inline, Processes, executor_for
    from fend.audit.run import Keep, KeepInFolder, KeepInMemory, audit_report, run_audit
    from fend.audit.work.opened import AuditJob, OpenAudit, check_fit, open_audit, source_of
    from fend.audit.work.shard import run_shard
    from fend.audit.work.shards import Shard, shards_of
    from fend.audit.work.surrogates import check_surrogate

__all__ = [
    "PRESETS", "ROWS", "AuditDocument", "AuditJob", "AuditSpec", "Executor", "Inline", "Keep",
    "KeepInFolder", "KeepInMemory", "OpenAudit", "Processes", "Report", "Row", "Shard", "Source",
    "Timing", "audit_report", "build_report", "check_fit", "check_surrogate", "executor_for",
    "from_request", "open_audit", "run_audit", "run_shard", "shards_of", "source_of",
    "spec_invalid", "to_markdown",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    work = ("work.opened", "work.shard", "work.shards", "work.surrogates")
    for module in ("executors", "run", *work):
        if name in __all__ and hasattr(found := import_module(f"fend.audit.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
