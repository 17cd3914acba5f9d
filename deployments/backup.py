"""``make backup`` and ``make restore``: the database of the server, SQLite or PostgreSQL, as one file.

A password in the address of PostgreSQL is percent-encoded there (``@`` is ``%40``); without one, ~/.pgpass has it.
"""

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import URL

from image_longitudinal.core.errors import ConfigError, ImageLongitudinalError, StorageError
from image_longitudinal.core.files import replacing
from image_longitudinal.deployments.database_address import database


def backup(url: URL, file: Path) -> None:
    """Write the database to a new file, also while the server runs.

    Raises:
        StorageError: the file exists, or the database cannot be read.
    """
    if file.exists():
        raise StorageError("the backup exists", where=file, do="choose another FILE=")
    with replacing(file) as temporary:
        if url.get_backend_name() == "sqlite":
            _copy_sqlite(_sqlite_file(url), temporary)
        else:
            _postgres("pg_dump", url, "--format=custom", f"--file={temporary}")


def restore(url: URL, file: Path) -> None:
    """Replace the database by a backup. The server must not run.

    Raises:
        StorageError: the backup cannot be read, or the database not be written.
    """
    if not file.is_file():
        raise StorageError("there is no backup", where=file, do="name it with FILE=")
    if url.get_backend_name() == "sqlite":
        target = _sqlite_file(url)
        with replacing(target) as temporary:
            _copy_sqlite(file, temporary)
        for suffix in ("-wal", "-shm"):  # of the database that was there
            target.with_name(target.name + suffix).unlink(missing_ok=True)
    else:
        # Also what a later version of Prefect added is removed, of which the backup knows nothing.
        empty = "--command=DROP SCHEMA public CASCADE; CREATE SCHEMA public"
        with tempfile.TemporaryDirectory() as folder:
            script = f"--file={folder}/restore.sql"
            _postgres("pg_restore", url, "--no-owner", script, str(file))
            options = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction")
            _postgres("psql", url, *options, f"--dbname={url.database}", empty, script)


def _sqlite_file(url: URL) -> Path:
    return Path(url.database or "").expanduser()


def _copy_sqlite(source: Path, target: Path) -> None:
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as old,
            closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")  # one file
    except sqlite3.Error as error:
        raise StorageError("the database cannot be copied", where=source, got=error) from error


def _postgres(program: str, url: URL, *options: str) -> None:
    where = [f"--host={url.host or 'localhost'}", f"--port={url.port or 5432}", f"--username={url.username}"]
    if program == "pg_dump":
        where.append(f"--dbname={url.database}")
    password = {"PGPASSWORD": str(url.password)} if url.password else {}
    command = [program, "--no-password", *where, *options]
    try:
        done = subprocess.run(
            command, env={**os.environ, **password}, capture_output=True, encoding="utf-8", check=False
        )
    except FileNotFoundError as error:
        do = "install PostgreSQL's client (Debian: postgresql-client)"
        raise ConfigError(f"{program} is not installed", do=do) from error
    if done.returncode:
        raise StorageError(f"{program} failed", where=url.render_as_string(), got=done.stderr.strip())


def main() -> None:
    """Back up or restore; an error is one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("backup", "restore"))
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    os.umask(0o077)  # parameters of runs and addresses are nobody else's
    try:
        (backup if options.what == "backup" else restore)(database(), options.file)
    except ImageLongitudinalError as error:
        sys.exit(f"error: {error}")
    print(f"{options.what}: {options.file}")


if __name__ == "__main__":
    main()
