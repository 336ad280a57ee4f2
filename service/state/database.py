"""The database of the service: SQLite in the state folder, or Postgres. Opened, migrated, written.

SQLite syncs at each commit: what was accepted survives kill -9 and power loss. Several processes
may have it open.
"""

import os
import secrets
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from filelock import FileLock
from filelock import Timeout as LockTimeout
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, SQLAlchemyError

from fend.errors import Unavailable
from fend.files import replace_atomically

FILE = "audits.sqlite"
ROOM_BYTES = 2**20
"""Free space that counts as room on the disk again after it has refused a write."""

BUSY_TIMEOUT_S = 10.0
"""Seconds to wait for another process to finish its write."""

_MIGRATION_LOCK = 0x66656E64
"""The number that processes of this service lock in Postgres while they migrate."""


class StateUnavailable(Unavailable):
    """The state cannot be read or written now."""

    code = "state_unavailable"


class Database:
    """A pool of connections. Its methods block: call them in a thread."""

    def __init__(
        self,
        state_dir: Path,
        url: str | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """`url`: of Postgres, as SQLAlchemy writes it; None: SQLite in `state_dir`. `on_failure`
        is called for each statement that the database refuses."""
        self.state_dir = state_dir
        self._where = "the Postgres of FEND_DATABASE_URL" if url else str(state_dir / FILE)
        self._url = url or sa.URL.create("sqlite", database=str(state_dir / FILE))
        self._on_failure = on_failure
        self._closing = ExitStack()
        self.trouble: str | None = None
        """What the database said when it refused; None again once `look_again` found it well."""
        self.slot = -1
        """The number of this process among those that use `state_dir`, from 0."""
        self.owner = ""
        """The name of this process in leases. Whoever takes the slot next has the same one."""

    def open(self) -> None:
        """Take a slot, connect, and bring the tables up to date.

        Raises:
            StateUnavailable: it cannot be used, or a newer Fend made it.
        """
        hint = "set FEND_STATE_DIR to a writable folder, with room on its disk"
        try:
            self.state_dir.mkdir(parents=True, exist_ok=True)
            self._take_slot()
            with FileLock(self.state_dir / "opening.lock", thread_local=False):
                self.engine = sa.create_engine(self._url)
                self._closing.callback(self.engine.dispose)
                if self.engine.dialect.name == "sqlite":
                    sa.event.listen(self.engine, "connect", _prepare_sqlite)
                    sa.event.listen(self.engine, "begin", _begin_sqlite)
                self._migrate()
        except CommandError as error:
            self.close()
            raise StateUnavailable(
                f"{self._where} was made by a newer version of Fend ({error}); {hint}"
            ) from error
        except (OSError, SQLAlchemyError, ValueError) as error:
            self.close()
            raise StateUnavailable(
                f"{self._where} cannot be used: {_reason(error)}; {hint}"
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

    def give_back_space(self) -> None:
        """Shrink the file by what was deleted; Postgres does so by itself."""
        if self.engine.dialect.name == "sqlite":
            with self._transaction(read_only=False) as connection:
                raw = connection.connection.driver_connection
                assert isinstance(raw, sqlite3.Connection)
                raw.executescript("PRAGMA incremental_vacuum")  # `execute` frees one page only

    def look_again(self) -> bool:
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
            self.trouble = reason = _reason(error)
            self._on_failure()
            hint = "make room on the disk of FEND_STATE_DIR, or try again later"
            if isinstance(error, DatabaseError) and not isinstance(error, OperationalError):
                hint = f"{self._where} may be damaged: restore it from a backup"
            raise StateUnavailable(
                f"the service cannot read or keep its state just now ({reason}); {hint}"
            ) from error

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
        if not name.is_file():
            replace_atomically(name, secrets.token_hex(8), durable=True)
        self.slot, self.owner = slot, f"{name.read_text()}-{slot}"

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        choices = self.state_dir / "active.json"
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            config.attributes |= {"connection": connection, "state_dir": self.state_dir}
            command.upgrade(config, "head")
        if choices.exists():  # its content is in the database now
            choices.replace(choices.with_suffix(".json.imported"))


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins
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


def _reason(error: Exception) -> str:
    """What the database itself said, without the statement and its values."""
    return str(getattr(error, "orig", None) or error)
