"""The tables of the service, as they are after the last migration. Every statement on them runs on
SQLite and on Postgres."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, DateTime, ForeignKey, Integer, MetaData, Table, Text, TypeDecorator


class UtcTime(TypeDecorator[datetime]):
    """A time with its zone in Python, kept as UTC without one: SQLite knows no zones."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Any) -> datetime | None:
        """The naive time to write."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Any) -> datetime | None:
        """The time in UTC that was read."""
        return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value

    def result_processor(self, dialect: Any, coltype: object) -> Any:
        """As of any time, but what is none is passed on: reading one row must not hide others."""
        read = super().result_processor(dialect, coltype)

        def process(value: Any) -> Any:
            try:
                return value if read is None else read(value)
            except (TypeError, ValueError):
                return value

        return process


metadata = MetaData()

audits = Table(
    "audits",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("idempotency_key", Text, unique=True),
    Column("state", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("dataset", Text),
    Column("spec", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("finished_at", UtcTime),
    Column("error_code", Text),
    Column("error", Text),
    Column("source", Text),
    Column("result", Text),
    Column("worker_deaths", Integer, nullable=False, server_default="0"),
    Column("owner", Text),
    Column("heartbeats", Integer, nullable=False, server_default="0"),
    sqlite_autoincrement=True,
)

shards = Table(
    "shards",
    metadata,
    Column("audit", Text, ForeignKey("audits.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("images", Integer, nullable=False),
    Column("tally", Text, nullable=False),
    Column("rows", Text),
    Column("finished_at", UtcTime),
)

active_versions = Table(
    "active_versions",
    metadata,
    Column("model", Text, primary_key=True),
    Column("active", Text),
    Column("previous", Text),
    Column("unloaded", Text),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created_at", UtcTime, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("summary", Text, nullable=False),
)

is_pending = audits.c.state.in_(("queued", "running"))
"""Whether an audit has not ended."""
