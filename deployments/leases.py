"""Where the server keeps the leases of concurrency slots: files in PREFECT_HOME, which outlive the server.

Prefect's default keeps them in the server's memory: after a restart no holder can renew, runs crash, and their slots
stay taken for ever. Prefect's file storage has two gaps, which are closed here. A lease may expire while the server is
away, so at its start all leases are extended. A renewal may arrive between the decision to revoke an expired lease and
its end, and the holder would go on without its slot; here an expired lease is never renewed, so that both agree.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import ClassVar
from uuid import UUID

from prefect.server.concurrency.lease_storage import ConcurrencyLimitLeaseMetadata, filesystem
from prefect.server.utilities.leasing import ResourceLease

AFTER_START = timedelta(minutes=5)  # what every holder has to renew in: clients retry at growing intervals
SLACK = timedelta(seconds=15)  # beyond what a holder asks for: it renews after three quarters, on a busy machine later


class ConcurrencyLeaseStorage(filesystem.ConcurrencyLeaseStorage):
    """Named by the setting PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE; Prefect makes an instance for each use."""

    _extended: ClassVar[bool] = False
    _index: ClassVar[asyncio.Lock] = asyncio.Lock()

    def __init__(self) -> None:
        super().__init__()
        if not ConcurrencyLeaseStorage._extended:  # the first use after the server's start
            ConcurrencyLeaseStorage._extended = True
            self.extend_all(datetime.now(UTC) + AFTER_START)

    def extend_all(self, until: datetime) -> None:
        """Let no lease expire before ``until``. The index of expirations follows: Prefect repairs it by the files."""
        for path in self.storage_path.glob("*.json"):
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):  # the index, or damaged
                lease = self._deserialize_lease(json.loads(path.read_text(encoding="utf-8")))
                lease.expiration = max(lease.expiration, until)
                self._atomic_write_json(path, self._serialize_lease(lease))

    @asynccontextmanager
    async def _lock_expiration_index(self) -> AsyncGenerator[None, None]:
        """A lock of this process, which is the only server: Prefect's is a file that a killed server leaves.

        It names the server's process by its number, and in a container the next server has the same.
        """
        async with self._index:
            yield

    async def create_lease(
        self, resource_ids: list[UUID], ttl: timedelta, metadata: ConcurrencyLimitLeaseMetadata | None = None
    ) -> ResourceLease[ConcurrencyLimitLeaseMetadata]:
        """As Prefect's, with slack."""
        return await super().create_lease(resource_ids, ttl + SLACK, metadata)

    async def renew_lease(self, lease_id: UUID, ttl: timedelta) -> bool:
        """As Prefect's, with slack; False also for a lease that has expired and is about to be revoked."""
        lease = await self.read_lease(lease_id)
        if lease is not None and lease.expiration < datetime.now(UTC):
            return False
        return await super().renew_lease(lease_id, ttl + SLACK)
