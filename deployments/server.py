"""``make server``: Prefect's server, with what SQLite needs to keep up with a run's events.

Prefect begins most transactions on SQLite as readers. One that reads, and then writes after another has written, fails
at once ("database is locked"), however patient the connection: an event of a run in full swing is lost that way, and
with it what an automation should have done, or the server answers 503 to a button. Here a transaction takes its turn at
the beginning, where SQLite lets it wait (60 seconds in Prefect's settings). PostgreSQL needs none of this.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prefect.cli import app
from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


@asynccontextmanager
async def begin_as_writer(
    self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
) -> AsyncGenerator[AsyncSessionTransaction, None]:
    """In the place of ``AioSqliteConfiguration.begin_transaction``."""
    async with session.begin() as transaction:
        mode = SQLITE_BEGIN_MODE.set("IMMEDIATE")
        try:
            await session.connection()  # begins now: sessions opened within this one only read, and do not wait
        finally:
            SQLITE_BEGIN_MODE.reset(mode)
        yield transaction


def main() -> None:
    """``prefect server start`` with the arguments given."""
    AioSqliteConfiguration.begin_transaction = begin_as_writer  # type: ignore[method-assign]
    sys.argv[1:1] = ["server", "start"]
    app()


if __name__ == "__main__":
    main()
