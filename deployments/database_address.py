r"""The address of the server's database, and its password from ~/.pgpass.

By the rules of PostgreSQL's own programs: ``\:`` is ``:``, and ``\\`` is ``\``. asyncpg, by which Prefect's server
connects, reads the file too, and leaves the backslashes in the password.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from prefect.settings import get_current_settings
from sqlalchemy.engine import URL, make_url

_FIELDS = 5  # host, port, database, user, password


def database() -> URL:
    """The address of the server's database, from the environment as ``make server`` has it."""
    settings = get_current_settings()
    given = settings.server.database.connection_url
    return make_url(given.get_secret_value() if given else f"sqlite+aiosqlite:///{settings.home}/prefect.db")


def give_password(url: URL) -> None:
    """Put the password of a PostgreSQL address into the environment of this process, unless it is known already.

    A file that others may read is not used, as by PostgreSQL's programs.
    """
    if url.get_backend_name() != "postgresql" or url.password or "PGPASSWORD" in os.environ:
        return
    file = Path(os.environ.get("PGPASSFILE", Path.home() / ".pgpass"))
    if not file.is_file() or stat.S_IMODE(file.stat().st_mode) & 0o077:
        return
    wanted = url.host or "localhost", str(url.port or 5432), url.database or "", url.username or ""
    password = find_password(file.read_text(encoding="utf-8").splitlines(), wanted)
    if password is not None:
        os.environ["PGPASSWORD"] = password


def find_password(lines: Iterable[str], wanted: tuple[str, str, str, str]) -> str | None:
    """The password in the first line whose host, port, database and user match; ``*`` matches all."""
    for line in lines:
        fields = _fields(line)
        if (
            not line.startswith("#")
            and len(fields) == _FIELDS
            and all(said in ("*", one) for said, one in zip(fields, wanted, strict=False))
        ):
            return fields[-1]
    return None


def _fields(line: str) -> list[str]:
    fields, letters = [""], iter(line)
    for letter in letters:
        if letter == "\\":
            fields[-1] += next(letters, "")
        elif letter == ":" and len(fields) < _FIELDS:
            fields.append("")
        else:
            fields[-1] += letter
    return fields
