"""Leases of slots: one that is revoked is never renewed, one of a holder that lives is never revoked."""

import asyncio
import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect.server.concurrency.lease_storage import ConcurrencyLimitLeaseMetadata

from image_longitudinal.deployments import leases
from image_longitudinal.deployments.leases import ConcurrencyLeaseStorage

SECOND = timedelta(seconds=1)
ONE_SLOT = ConcurrencyLimitLeaseMetadata(slots=1)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConcurrencyLeaseStorage:
    made = ConcurrencyLeaseStorage()
    made.storage_path = tmp_path
    monkeypatch.setattr(ConcurrencyLeaseStorage, "_index", asyncio.Lock())  # one for each event loop
    monkeypatch.setattr(leases, "SLACK", timedelta(0))
    return made


def test_holders_that_renew_too_late_or_in_time_agree_with_the_server(storage: ConcurrencyLeaseStorage) -> None:
    """Prefect 3.8.8's file storage renews some leases here whose revocation has been decided."""
    lost: set[UUID] = set()  # revocation is decided
    accepted, refused = [], []

    async def hold() -> None:
        for _ in range(3):
            lease = await storage.create_lease([uuid4()], SECOND, ONE_SLOT)
            for _ in range(3):
                await asyncio.sleep(random.uniform(0.4, 1.3))  # a third of them too late
                renewed = await storage.renew_lease(lease.id, SECOND)
                (accepted if renewed else refused).append(lease.id)
                assert not (renewed and lease.id in lost)
                if not renewed:
                    break

    async def revoke_expired() -> None:
        """As Prefect's server does it, with a moment for its database between decision and revocation."""
        for found in await storage.read_expired_lease_ids():
            lease = await storage.read_lease(found)
            if lease and lease.expiration < datetime.now(UTC):
                lost.add(found)
                await asyncio.sleep(0.05)
            await storage.revoke_lease(found)

    async def both() -> None:
        holders = asyncio.gather(*(hold() for _ in range(50)))
        while not holders.done():
            await revoke_expired()
            await asyncio.sleep(0.05)
        await holders

    asyncio.run(both())
    assert accepted
    assert refused, "no lease expired: nothing was tested"


def test_the_lock_of_a_killed_server_holds_nobody_up(storage: ConcurrencyLeaseStorage) -> None:
    """In a container the next server may have the number of the killed one, and so be taken for it."""
    (storage.storage_path / "expirations.lock").write_text(str(os.getpid()), encoding="utf-8")

    async def renew() -> bool:
        lease = await storage.create_lease([uuid4()], SECOND, ONE_SLOT)
        return await storage.renew_lease(lease.id, SECOND)

    assert asyncio.run(asyncio.wait_for(renew(), 10))


def test_a_renewal_between_the_decision_to_revoke_and_its_end_is_refused(storage: ConcurrencyLeaseStorage) -> None:
    async def race() -> bool:
        lease = await storage.create_lease([uuid4()], timedelta(0), ONE_SLOT)
        assert await storage.read_expired_lease_ids() == [lease.id]
        renewed = await storage.renew_lease(lease.id, SECOND)
        await storage.revoke_lease(lease.id)
        return renewed

    assert not asyncio.run(race())


def test_after_a_start_of_the_server_holders_have_minutes_to_renew(storage: ConcurrencyLeaseStorage) -> None:
    async def restart() -> tuple[list[UUID], bool]:
        lease = await storage.create_lease([uuid4()], timedelta(0), ONE_SLOT)
        assert await storage.read_expired_lease_ids() == [lease.id]
        (storage.storage_path / "damaged.json").write_text("{", encoding="utf-8")
        storage.extend_all(datetime.now(UTC) + leases.AFTER_START)
        return await storage.read_expired_lease_ids(), await storage.renew_lease(lease.id, SECOND)

    assert asyncio.run(restart()) == ([], True)
