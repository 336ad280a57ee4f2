"""What can be wrong with a database, told in one line with what to do; nothing here changes it."""

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from fend.errors import Unavailable

FORMAT = 3
"""The `user_version` of SQLite files that alembic keeps; 1 and 2 are of older versions of Fend."""

_BACKUP = "restore it from a backup, or move it away to begin without audits and uploads"
_ROOM = "make room on its disk"
_WRITABLE = "let the service write there, or set FEND_STATE_DIR to a folder where it can"

_HINTS = {
    sqlite3.SQLITE_CORRUPT: _BACKUP,
    sqlite3.SQLITE_NOTADB: _BACKUP,
    sqlite3.SQLITE_FULL: _ROOM,
    sqlite3.SQLITE_IOERR: f"{_ROOM}, or look whether the disk works",
    sqlite3.SQLITE_READONLY: _WRITABLE,
    sqlite3.SQLITE_CANTOPEN: _WRITABLE,
    sqlite3.SQLITE_PERM: _WRITABLE,
    sqlite3.SQLITE_BUSY: "end the other program that uses it, or try again later",
}
"""By the primary code of SQLite's errors."""


class StateUnavailable(Unavailable):
    """The state cannot be read or written now."""

    code = "state_unavailable"


def reason_of(error: Exception) -> str:
    """What the database itself said, in one line, without the statement and its values."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def hint_for(error: Exception, otherwise: str = _WRITABLE) -> str:
    """What to do about an error of a database or of its folder."""
    error = getattr(error, "orig", None) or error
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return _HINTS.get(code, otherwise)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _ROOM
    return otherwise


def is_there(file: Path) -> bool:
    """Whether a SQLite database of Fend is at `file`; False: nothing is.

    Raises:
        StateUnavailable: something else is there, or the database is empty, damaged or of a newer
            version; it stays as it is.
        OSError, sqlite3.Error: it cannot be read.
    """
    if not os.path.lexists(file):
        log = file.with_name(f"{file.name}-wal")
        if log.is_file() and log.stat().st_size:
            raise StateUnavailable(
                f"{file} is missing, and {log.name} holds changes to it: restore it from a backup, "
                f"or move {log.name} away to begin without audits and uploads"
            )
        return False
    if not file.is_file():
        raise StateUnavailable(f"{file} is no file: move it away, or set FEND_STATE_DIR")
    for path in (file, file.parent):  # SQLite itself would say so at the first write only
        if not os.access(path, os.R_OK | os.W_OK):
            raise StateUnavailable(f"{path} cannot be written: {_WRITABLE}")
    if file.stat().st_size == 0:
        raise StateUnavailable(f"{file} is empty, as no database is: {_BACKUP}")
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as db:
        [version] = db.execute("PRAGMA user_version").fetchone()
        tables = {name for [name] in db.execute("SELECT name FROM sqlite_master")}
        if version > FORMAT:
            raise newer(file, f"its format is {version}")
        if not {"audits", "alembic_version" if version in (0, FORMAT) else "shards"} <= tables:
            raise StateUnavailable(f"{file} is no database of Fend: {_BACKUP}")
        [damage] = db.execute("PRAGMA quick_check(1)").fetchone()
        if damage != "ok":
            raise StateUnavailable(f"{file} is damaged ({' '.join(damage.split())}): {_BACKUP}")
    return True


def newer(where: object, how: object) -> StateUnavailable:
    """The database was made by a Fend that knows more than this one."""
    return StateUnavailable(
        f"{where} was made by a newer version of Fend ({how}): install that version, restore a "
        "backup of before, or set FEND_STATE_DIR to another folder"
    )
