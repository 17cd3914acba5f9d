"""Passwords in ~/.pgpass, by PostgreSQL's rules."""

import os
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from image_longitudinal.deployments.database_address import find_password, give_password

HERE = ("localhost", "5432", "prefect", "ann")


@pytest.mark.parametrize(
    ("line", "password"),
    [
        (r"localhost:5432:prefect:ann:p@ss\: w\\ord/%41", r"p@ss: w\ord/%41"),
        ("*:*:*:*:x", "x"),
        ("localhost:5433:prefect:ann:x", None),
        ("#localhost:5432:prefect:ann:x", None),
        ("localhost:5432:prefect:ann", None),
        ("localhost:5432:prefect:ann:", ""),
    ],
)
def test_a_line_is_read_as_postgresql_reads_it(line: str, password: str | None) -> None:
    assert find_password([line, ""], HERE) == password


def test_the_environment_gets_the_password_that_nothing_else_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pgpass"
    file.write_text("localhost:5432:prefect:ann:secret\n", encoding="utf-8")
    monkeypatch.setenv("PGPASSFILE", str(file))
    monkeypatch.setenv("PGPASSWORD", "")  # so that it is restored
    url = make_url("postgresql+asyncpg://ann@localhost/prefect")

    def given(mode: int, address: str = str(url)) -> str | None:
        monkeypatch.delenv("PGPASSWORD", raising=False)
        file.chmod(mode)
        give_password(make_url(address))
        return os.environ.get("PGPASSWORD")

    assert given(0o600) == "secret"
    assert given(0o644) is None, "others may read the file"
    assert given(0o600, "postgresql+asyncpg://ann:other@localhost/prefect") is None
    assert given(0o600, "sqlite+aiosqlite:////some/file") is None
