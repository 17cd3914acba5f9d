"""Copies of a database while it is in use, and back. On a server: tests/e2e/test_operator.py, test_upgrade.py."""

import sqlite3
import subprocess
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from image_longitudinal.core.errors import StorageError
from image_longitudinal.deployments.backup import backup, restore
from tests.e2e.postgres import postgres


def rows(file: Path) -> list[int]:
    connection = sqlite3.connect(file)
    found = [row[0] for row in connection.execute("SELECT number FROM runs ORDER BY number")]
    connection.close()
    return found


def test_a_database_in_use_is_copied_whole_and_restored(tmp_path: Path) -> None:
    file, copy = tmp_path / "prefect.db", tmp_path / "copy"
    url = make_url(f"sqlite+aiosqlite:///{file}")
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode=WAL")  # as Prefect has it: the latest rows are in a file of their own
    connection.execute("CREATE TABLE runs (number)")
    connection.execute("INSERT INTO runs VALUES (1)")
    connection.commit()
    assert file.with_name("prefect.db-wal").exists()
    backup(url, copy)
    assert rows(copy) == [1]
    connection.execute("INSERT INTO runs VALUES (2)")
    connection.commit()
    connection.close()
    restore(url, copy)
    assert rows(file) == [1]


def test_nothing_is_replaced_by_a_backup_and_nothing_restored_from_what_is_none(tmp_path: Path) -> None:
    url, file = make_url(f"sqlite+aiosqlite:///{tmp_path}/prefect.db"), tmp_path / "file"
    sqlite3.connect(tmp_path / "prefect.db").close()
    with pytest.raises(StorageError, match="no backup"):
        restore(url, file)
    file.write_text("not a database", encoding="utf-8")
    with pytest.raises(StorageError, match="the backup exists"):
        backup(url, file)
    with pytest.raises(StorageError, match="cannot be copied"):
        restore(url, file)


def test_a_restored_postgresql_database_has_nothing_that_came_after_its_backup(tmp_path: Path) -> None:
    copy, damaged = tmp_path / "copy", tmp_path / "damaged"
    damaged.write_text("no", encoding="utf-8")
    with postgres() as address:
        url = make_url(address)

        def psql(command: str) -> str:
            server = [f"--host={url.host}", f"--port={url.port}", f"--username={url.username}"]
            options = ["--quiet", "--tuples-only", "--no-align", f"--dbname={url.database}", f"--command={command}"]
            return subprocess.run(["psql", *server, *options], check=True, capture_output=True, text=True).stdout

        psql("CREATE EXTENSION pg_trgm; CREATE TABLE runs (number int); INSERT INTO runs VALUES (1)")
        backup(url, copy)
        psql("CREATE TABLE later (number int); INSERT INTO runs VALUES (2)")
        with pytest.raises(StorageError, match="pg_restore failed"):
            restore(url, damaged)
        assert psql("SELECT number FROM runs ORDER BY number") == "1\n2\n"
        for _ in range(2):
            restore(url, copy)
            assert psql("SELECT number FROM runs") == "1\n"
            assert psql("SELECT to_regclass('later') IS NULL") == "t\n"
