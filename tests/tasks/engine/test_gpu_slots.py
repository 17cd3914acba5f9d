"""What :mod:`tasks.engine.gpu_slots` changes in Prefect is still there; how slots are held: tests/e2e."""

from prefect.concurrency import _leases as leases

from image_longitudinal.tasks.engine.gpu_slots import RENEWALS


def test_prefect_asks_for_a_renewal_as_often_as_it_is_told() -> None:
    names = leases._renew_concurrency_lease_with_retries.__code__.co_names
    assert "_RENEWAL_MAX_ATTEMPTS" in names
    assert leases._RENEWAL_RETRY_MAX_DELAY * RENEWALS >= 300, "as long as the server extends all leases at its start"
