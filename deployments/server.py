"""``make server``: Prefect's server, supervision of its runs, and SQLite transactions that wait for each other.

Prefect begins most SQLite transactions as readers. A transaction that reads, and then writes after another one has
written, fails at once with "database is locked", whatever the timeout: an event of a run is lost, and with it the
action of an automation, or the server answers a request with 503. Here every transaction begins as a writer, where
SQLite waits for the lock (60 seconds in Prefect's settings). PostgreSQL does not need this.
"""

import argparse
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


@asynccontextmanager
async def begin_as_writer(
    self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
) -> AsyncGenerator[AsyncSessionTransaction, None]:
    """Replacement of ``AioSqliteConfiguration.begin_transaction``."""
    async with session.begin() as transaction:
        mode = SQLITE_BEGIN_MODE.set("IMMEDIATE")
        try:
            await session.connection()  # begins now; sessions opened within this one only read, and do not wait
        finally:
            SQLITE_BEGIN_MODE.reset(mode)
        yield transaction


def greeting(base_url: str, ui_enabled: bool) -> str:
    """Replacement of Prefect's words, which call its pages "not built" where the image has the newer ones alone."""
    pages = "its pages" if ui_enabled else "no pages (PREFECT_UI_ENABLED=1 shows them)"
    return f"""
Prefect's server with {pages}: {base_url}
Elsewhere than here, workers and commands find it by PREFECT_API_URL={base_url}/api. Ctrl-C ends it."""


def main() -> None:
    """Run ``prefect server start`` with the arguments of this command, and supervise its runs."""
    # Here: the temporary server of a command uses this module too, and is in a hurry.
    from prefect.cli import _server_utils, app

    from image_longitudinal.deployments.database_address import database, give_password
    from image_longitudinal.deployments.supervision import start_supervision

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default="4200")
    address, _ = parser.parse_known_args()
    give_password(database())
    start_supervision(address.host, address.port)
    AioSqliteConfiguration.begin_transaction = begin_as_writer  # type: ignore[method-assign]
    _server_utils.generate_welcome_blurb = greeting
    sys.argv[1:1] = ["server", "start"]
    app()


if __name__ == "__main__":
    main()
