"""A database for the tests of the store: SQLite, and Postgres where its programs are installed."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.state.database import Database

OpenDatabase = Callable[..., Database]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a Postgres of our own, but for the name of the database at its end."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("Postgres is not installed (apt-get install postgresql)")
    # Its socket's path must be short, and it refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="fend-pg-", dir="/tmp"))
    root = os.geteuid() == 0
    if root:
        shutil.chown(folder, "postgres", "postgres")

    def call(program: str, *arguments: str) -> None:
        user = ["runuser", "-u", "postgres", "--"] if root else []
        subprocess.run(
            [*user, str(programs[-1] / program), "-D", str(folder / "data"), *arguments],
            check=True, capture_output=True, cwd=folder, timeout=120,
        )  # fmt: skip

    try:
        call("initdb", "-U", "fend", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -k {folder} -c fsync=off"
        call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://fend@/%s?host={folder}"
        finally:
            call("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def open_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenDatabase]:
    """`open_database()` is the database of a process, which starts anew with each call;
    `open_database(name)` is the same one, opened by another process, with Postgres on another
    machine."""
    url = None
    if request.param == "postgres":
        server, name = request.getfixturevalue("postgres_url"), f"test_{secrets.token_hex(4)}"
        engine = sa.create_engine(server % "postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        url = server % name
    opened: dict[str, Database] = {}

    def open_one(folder: str = "") -> Database:
        if folder in opened:
            opened[folder].close()
        state_dir = tmp_path / folder if url else tmp_path
        database = Database(state_dir, url)
        database.open()
        opened[folder] = database
        return database

    yield open_one
    for database in opened.values():
        database.close()
