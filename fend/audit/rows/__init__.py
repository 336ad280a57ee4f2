"""The raw results of an audit, and what they are about."""

from fend.audit.rows.kinds import (
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
    Source,
)

__all__ = [
    "ROWS", "AttackRow", "CleanRow", "CostRow", "CurveRow", "ExampleRow", "Probe", "ProbeRow",
    "Row", "ServedRow", "SkippedRow", "Source",
]  # fmt: skip
