"""Several attempts of one run: a run that was started again although its first process lives."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_run_logger
from prefect.exceptions import Abort
from prefect.runtime import flow_run

from image_longitudinal.storage.io.lease import HeldByThisRunError, Lease, hold_lease
from image_longitudinal.storage.io.root import Root


@contextmanager
def run_lease(root: Root) -> Iterator[Lease]:
    """The lease on an output for the current flow run.

    If another attempt of the run holds it, this one ends and leaves the state of the run as it is: the other attempt
    decides it.

    Raises:
        StorageError: another run holds it.
    """
    logger = get_run_logger()
    try:
        with hold_lease(root, logger.info, run=flow_run.id or "") as lease:
            yield lease
    except HeldByThisRunError as error:
        logger.warning(f"this attempt ends without a verdict: {error}")
        raise Abort(str(error)) from error
