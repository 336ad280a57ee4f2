"""The database of the service: SQLite in the state folder, or Postgres. Opened, migrated, written.

SQLite syncs at each commit: what was accepted survives kill -9 and power loss. Several processes
may have it open.
"""

import os
import re
import secrets
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from filelock import FileLock
from filelock import Timeout as LockTimeout
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from fend.files import replace_atomically, replacing
from service.state.trouble import StateUnavailable, hint_for, is_there, newer, reason_of

FILE = "audits.sqlite"
ROOM_BYTES = 2**20
"""Free space that counts as room on the disk again after it has refused a write."""

BUSY_TIMEOUT_S = 10.0
"""Seconds to wait for another process to finish its write."""

_MIGRATION_LOCK = 0x66656E64
"""The number that processes of this service lock in Postgres while they migrate."""


class Database:
    """A pool of connections. Its methods block: call them in a thread."""

    def __init__(
        self,
        state_dir: Path,
        url: str | None = None,
        on_failure: Callable[[], None] = lambda: None,
        on_unreadable: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`url`: of Postgres, as SQLAlchemy writes it; None: SQLite in `state_dir`. `on_failure`
        is called for each statement that the database refuses, `on_unreadable` with the kind of
        each row that is skipped."""
        self.state_dir = state_dir
        self._url = url
        self._choices = state_dir / "active.json"
        self._where = "the database of FEND_DATABASE_URL" if url else str(state_dir / FILE)
        self._on_failure = on_failure
        self._on_unreadable = on_unreadable
        self._unreadable: set[tuple[str, str]] = set()
        self._closing = ExitStack()
        self.trouble: str | None = None
        """What the database said when it refused, and what to do about it; None again once
        `check_again` found it well."""
        self.slot = -1
        """The number of this process among those that use `state_dir`, from 0."""
        self.owner = ""
        """The name of this process in leases. Whoever takes the slot next has the same one."""

    def open(self) -> None:
        """Take a slot, connect, and bring the tables up to date.

        Raises:
            StateUnavailable: it cannot be used, is damaged, or a newer Fend made it; it is as
                it was before.
        """
        try:
            self.state_dir.mkdir(parents=True, exist_ok=True)
            self._take_slot()
            with FileLock(self.state_dir / "opening.lock", thread_local=False):
                own = sa.URL.create("sqlite", database=str(self.state_dir / FILE))
                url = own if self._url is None else sa.make_url(self._url)
                file = Path(url.database or "")
                new = url.get_backend_name() == "sqlite" and not is_there(file)
                if new:
                    self._make(file)
                self.engine = _engine(url)
                self._closing.callback(self.engine.dispose)
                if (self._migrate(self.engine) or new) and self._choices.exists():
                    self._choices.replace(self._choices.with_suffix(".json.imported"))
        except CommandError as error:
            self.close()
            raise newer(self._where, reason_of(error)) from error
        except StateUnavailable:
            self.close()
            raise
        except ImportError as error:
            self.close()
            raise StateUnavailable(
                f"{self._where} needs {error.name}, which is not installed: give a URL like "
                "postgresql+psycopg://USER:PASSWORD@HOST/NAME and pip install 'fend[postgres]'"
            ) from error
        except (OSError, SQLAlchemyError, sqlite3.Error, ValueError) as error:
            self.close()
            where = "see that Postgres runs and that FEND_DATABASE_URL is right"
            hint = hint_for(error, where) if self._url else hint_for(error)
            raise StateUnavailable(
                f"{self._where} cannot be used: {reason_of(error)}: {hint}"
            ) from error

    def close(self) -> None:
        """Let go of the connections and of the slot."""
        self._closing.close()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with self._transaction(read_only=True) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that is on the disk when the block has ended, or has changed nothing.

        Raises:
            StateUnavailable: it could not be kept.
            IntegrityError: a key is there already.
        """
        with self._transaction(read_only=False) as connection:
            yield connection

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that has `on_conflict_do_nothing` and `on_conflict_do_update`."""
        dialects: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
        return dialects[self.engine.dialect.name](table)

    def reclaim_space(self) -> None:
        """Shrink the file by what was deleted; Postgres does so by itself."""
        if self.engine.dialect.name == "sqlite":
            with self._transaction(read_only=False) as connection:
                raw = connection.connection.driver_connection
                assert isinstance(raw, sqlite3.Connection)
                raw.executescript("PRAGMA incremental_vacuum")  # `execute` frees one page only

    def check_again(self) -> bool:
        """Whether the database, after it has refused, would take a write now.

        A small write to SQLite's file proves nothing: it keeps room for a few.
        """
        if self.trouble is not None:
            try:
                with tempfile.TemporaryFile(dir=self.state_dir) as file:
                    file.write(bytes(ROOM_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
                with self.engine.connect() as connection:
                    connection.execute(sa.select(1))
            except (OSError, SQLAlchemyError):
                return False
            self.trouble = None
        return True

    @contextmanager
    def _transaction(self, *, read_only: bool) -> Iterator[sa.Connection]:
        try:
            with self.engine.connect() as connection:
                connection = connection.execution_options(read_only=read_only)
                with connection.begin():
                    yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            reason = reason_of(error)
            hint = hint_for(error, "make room on the disk of FEND_STATE_DIR, or try again later")
            self.trouble = f"{reason}; {hint}"
            self._on_failure()
            raise StateUnavailable(
                f"the service cannot read or keep its state just now ({reason}); {hint}"
            ) from error

    def skip(self, kind: str, key: str, error: Exception) -> None:
        """Say once in the log, and count, that a row cannot be read; it stays as it is."""
        if (kind, key) not in self._unreadable:
            self._unreadable.add((kind, key))
            self._on_unreadable(kind)
            structlog.get_logger().error(
                "a row of the state cannot be read and is skipped; it stays as it is",
                kind=kind, key=key, reason=reason_of(error),
            )  # fmt: skip

    def _take_slot(self) -> None:
        for slot in range(1000):
            lock = FileLock(self.state_dir / f"process-{slot}.lock", thread_local=False)
            try:
                lock.acquire(timeout=0)
            except LockTimeout:
                continue
            self._closing.callback(lock.release)
            break
        else:
            raise OSError("a thousand processes use this folder")
        name = self.state_dir / "owner"
        if not name.exists():
            replace_atomically(name, secrets.token_hex(8), durable=True)
        text = name.read_text(errors="replace")
        if not re.fullmatch("[0-9a-f]{16}", text):
            raise StateUnavailable(f"{name} is damaged: delete it, and a new one is made")
        self.slot, self.owner = slot, f"{text}-{slot}"

    def _make(self, file: Path) -> None:
        """A new SQLite database: it is there whole or not at all."""
        with replacing(file, durable=True) as staging:
            engine = _engine(sa.URL.create("sqlite", database=str(staging)))
            try:
                self._migrate(engine)
            finally:
                engine.dispose()

    def _migrate(self, engine: sa.Engine) -> bool:
        """Whether the first migration was done, which takes in `active.json`."""
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            before = MigrationContext.configure(connection).get_current_revision()
            config.attributes |= {"connection": connection, "choices": self._choices}
            command.upgrade(config, "head")
        return before is None


def _engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins
    # One text that is no UTF-8 must not hide the other rows: whoever reads it finds it wrong.
    connection.text_factory = lambda text: text.decode(errors="replace")
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000:.0f}")
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:  # it counts for a fresh file only, and is a write, which a full disk refuses
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that writes says so at once: one that began to read could not wait its turn.
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
