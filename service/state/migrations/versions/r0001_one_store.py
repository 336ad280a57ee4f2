"""The first layout of the one store, out of nothing or out of the files of older versions.

Older: `audits.sqlite` of format 1 or 2 (its `user_version`), and `active.json`.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import context, op
from pydantic import BaseModel, TypeAdapter, ValidationError

from fend.audit import AuditSpec
from service.state.tables import UtcTime
from service.state.trouble import FORMAT, StateUnavailable

revision = "0001"
down_revision = None


class _Choice(BaseModel):
    active: str | None
    previous: str | None = None
    unloaded: str | None = None


def upgrade() -> None:
    """Make or complete the tables."""
    db = op.get_bind()
    sqlite = db.dialect.name == "sqlite"
    old = db.exec_driver_sql("PRAGMA user_version").scalar_one() if sqlite else 0
    if old == 0:
        _create_audits()
    else:
        for column in _new_columns():
            op.add_column("audits", column)
        _convert(db)
    if old < 2:
        if old == 1:  # its rows and reports say too little for a report of today
            _restart_audits()
        _create_shards()
    op.create_table(
        "active_versions",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("active", sa.Text),
        sa.Column("previous", sa.Text),
        sa.Column("unloaded", sa.Text),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
    )
    _take_choices(context.config.attributes["choices"])
    if sqlite:
        db.exec_driver_sql(f"PRAGMA user_version = {FORMAT}")


def _new_columns() -> list[sa.Column[Any]]:
    return [sa.Column("dataset", sa.Text), sa.Column("owner", sa.Text), _count("heartbeats")]


def _count(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


def _create_audits() -> None:
    op.create_table(
        "audits",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("idempotency_key", sa.Text, unique=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("state", "model")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("model_version", "spec")),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        *(sa.Column(name, UtcTime) for name in ("started_at", "finished_at")),
        *(sa.Column(name, sa.Text) for name in ("error_code", "error", "source", "result")),
        _count("worker_deaths"),
        *_new_columns(),
        sqlite_autoincrement=True,
    )


def _create_shards() -> None:
    op.create_table(
        "shards",
        sa.Column("audit", sa.Text, sa.ForeignKey("audits.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("tally", sa.Text, nullable=False),
        sa.Column("rows", sa.Text),
    )


def _restart_audits() -> None:
    """Whoever waited for an audit of format 1 gets it, from the start; ended ones keep what they
    say of themselves."""
    op.add_column("audits", _count("worker_deaths"))
    op.execute("UPDATE audits SET result = NULL, source = NULL")
    op.execute("UPDATE audits SET state = 'queued', started_at = NULL WHERE state = 'running'")
    op.drop_table("shards")


def _convert(db: sa.Connection) -> None:
    """Times were ISO text, and the data set stood in the spec alone. What cannot be read stays."""
    times = ("created_at", "started_at", "finished_at")
    columns: list[sa.ColumnClause[str]] = [
        sa.column("id"),
        sa.column("spec"),
        *map(sa.column, times),
    ]
    table = sa.table("audits", sa.column("id"), sa.column("dataset"),
                     *(sa.column(name, UtcTime) for name in times))  # fmt: skip
    for row in db.execute(sa.select(*columns).select_from(sa.table("audits"))).mappings().all():
        try:
            spec = AuditSpec.model_validate_json(row["spec"])
            known = {name: datetime.fromisoformat(row[name]) for name in times if row[name]}
        except (ValidationError, ValueError, TypeError):
            continue
        this = table.c.id == row["id"]
        db.execute(sa.update(table).where(this).values(dataset=spec.dataset, **known))


def _take_choices(file: Path) -> None:
    if not file.exists():
        return
    try:
        found = TypeAdapter(dict[str, _Choice]).validate_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise StateUnavailable(
            f"{file} cannot be read: {' '.join(str(error).split())}; repair it, or delete it to "
            "serve what is in the folder of each model itself"
        ) from error
    names = ("model", "active", "previous", "unloaded")
    table = sa.table("active_versions", *map(sa.column, names))
    rows = [{"model": model, **choice.model_dump()} for model, choice in found.items()]
    if rows:
        op.bulk_insert(table, rows)
