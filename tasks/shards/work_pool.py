"""Shards made by the workers of a work pool, on this machine and others that see the same folders.

Each batch of shards is a run of the deployment make-shards, which a free worker picks up. Workers return nothing: the
shard manifests record what is finished. The unfinished shards of a lost worker are submitted again.
"""

import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import cast
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFlowRunFuture
from prefect.logging import get_run_logger
from prefect.states import Cancelling, Crashed

from image_longitudinal.core.errors import ConfigError, ModelError
from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.io.root import FileRecord, Root, clean_temporaries
from image_longitudinal.tasks.engine.prefect_setup import lasting_server
from image_longitudinal.tasks.shards.making import DatasetRun, MadeShard

POOL = "shards"  # its workers run one batch at a time; the run that submits never occupies one of them
DEPLOYMENT = "make-shards/make-shards"
FIRST_BATCH = 8  # shards, before any batch has told how long one takes
BATCH_SECONDS = 300.0  # of a batch: hides a run's start of some ten seconds, and workers that come late get their share
MAX_BATCH = 1024  # shards, which are listed among the parameters of a run
MAX_TRIES = 3  # submissions of one shard: after these the shard is the cause, not its workers
POLL_SECONDS = 2.0  # between reads of states and manifests
RANGES = 3  # of shards that the name of a run lists
WAITING_SECONDS = 60.0  # without any active worker, before the log says what the run waits for


@dataclass
class ShardBatch:
    """Shards submitted together, without those that are finished."""

    shards: deque[Shard]
    size: int  # how many they were
    id: UUID  # of its run
    name: str


def make_by_workers(run: DatasetRun, wanted: Mapping[int, str]) -> Generator[MadeShard, None, None]:
    """Have shards made by a pool's workers, with ``compute.concurrent_shards`` batches submitted at a time.

    A batch has as many shards as take :data:`BATCH_SECONDS`, and fewer towards the end: workers finish together.
    Arguments and yield as in :func:`tasks.shards.making.make_here`; shards come in the order in which they are seen
    finished.

    Raises:
        ConfigError: the server has no such deployment.
        ModelError: a shard was submitted :data:`MAX_TRIES` times and is not finished; names it and its last run's end.
    """
    width, logger = run.execution.compute.concurrent_shards, get_run_logger()
    plan, waiting = run.spec.plan, deque(wanted)
    tries: Counter[int] = Counter()
    submitted: list[ShardBatch] = []
    length = FIRST_BATCH
    last_active = time.monotonic()
    with _cancelled_with_this_run(submitted):
        while waiting or submitted:
            while waiting and len(submitted) < width:
                shards = [plan.shard(waiting.popleft()) for _ in range(min(length, -(-len(waiting) // width)))]
                submitted.append(_submit(run, shards))
            with suppress(ObjectNotFound):
                PrefectFlowRunFuture(submitted[0].id).wait(timeout=POLL_SECONDS)  # raises if this run is suspended
            runs = _runs([batch.id for batch in submitted])
            for batch in list(submitted):
                # The state is read before the manifests: a run that has ended writes no more of them.
                state, seconds = runs[batch.id]
                ended = state.is_final()
                if ended or not run.refresh:  # with refresh, manifests may be old until the run has ended
                    # Its run makes them in order, so the first unfinished one is the end.
                    while batch.shards and isinstance(record := run.finished_record(batch.shards[0]), FileRecord):
                        shard = batch.shards.popleft()
                        yield MadeShard(shard, record, "made", f"{wanted[shard.index]}; by a worker")
                if ended:
                    submitted.remove(batch)
                    if state.is_completed() and seconds > 0:
                        length = batch_length(batch.size, seconds)
                    if batch.shards:
                        _count_try(tries, run, batch.shards[0], state)
                        logger.warning(f"{batch.name}: {_text(state)}; {len(batch.shards)} shards are submitted again")
                        waiting.extendleft(shard.index for shard in reversed(batch.shards))
            if any(state.is_running() or state.is_final() for state, _ in runs.values()):
                last_active = time.monotonic()
            elif time.monotonic() - last_active > WAITING_SECONDS:
                logger.warning(f"{len(submitted)} runs wait for a worker; start one with: make worker POOL={POOL}")
                last_active = time.monotonic() + 9 * WAITING_SECONDS
        if tries:
            clean_temporaries(run.root)  # unfinished files of lost workers


def batch_length(shards: int, seconds: float) -> int:
    """How many shards a run makes in :data:`BATCH_SECONDS` if another one took ``seconds`` for its ``shards``.

    At most four times as many as those: the time of a short batch is mostly that of its start.
    """
    return max(1, min(MAX_BATCH, 4 * shards, int(shards * BATCH_SECONDS / seconds)))


def cancel_leftovers(root: Root) -> None:
    """Cancel unfinished runs of make-shards for an output, whose submitting run has died; its lease must be held."""
    if lasting_server() is None:
        return
    unfinished = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unfinished)))
    with get_client(sync_client=True) as client:
        flow = FlowFilter(name=FlowFilterName(any_=[DEPLOYMENT.partition("/")[0]]))
        left = [
            one
            for one in client.read_flow_runs(flow_filter=flow, flow_run_filter=wanted)
            if one.parameters.get("output") == root.url
        ]
        for one in left:
            client.set_flow_run_state(one.id, Cancelling(message="The run that submitted it has died."))
    if left:
        get_run_logger().info(f"{len(left)} runs of {DEPLOYMENT} that an earlier attempt left are cancelled")


def in_words(indices: Sequence[int]) -> str:
    """Shards by their ranges, such as ``shards 3 to 4, 12, 130 to 133``, in the order in which they are made."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][-1] + 1:
            ranges[-1][1:] = [index]
        else:
            ranges.append([index])
    said = [" to ".join(map(str, one)) for one in ranges]
    more = [f"{len(said) - RANGES} more ranges"] if len(said) > RANGES else []
    return f"shard{'s' * (len(indices) > 1)} {', '.join([*said[:RANGES], *more])}"


def _submit(run: DatasetRun, shards: Sequence[Shard]) -> ShardBatch:
    # A worker makes its shards one after another, or two at a time for each GPU that it sees.
    compute = run.execution.compute.model_copy(update={"executor": "threads", "concurrent_shards": 1})
    indices, url = [shard.index for shard in shards], run.root.url
    name = f"{in_words(indices)} of {url}"
    parameters = {
        "output": url,
        "spec": run.spec.model_dump(mode="json"),
        "execution": run.execution.model_copy(update={"compute": compute}).model_dump(mode="json"),
        "shards": indices,
        "reusable": run.reusable.of_shards(indices).model_dump(mode="json"),
        "refresh": run.refresh,
    }
    try:
        started = cast(FlowRun, run_deployment(DEPLOYMENT, parameters=parameters, flow_run_name=name, timeout=0))
    except ObjectNotFound as error:
        raise ConfigError(
            "compute.executor=work-pool needs a Prefect server that has the deployment",
            expected=DEPLOYMENT,
            got="no such deployment",
            do="start server, deployments and workers: make server, make deploy, make worker POOL=shards",
        ) from error
    return ShardBatch(deque(shards), len(shards), started.id, name)


def _runs(ids: list[UUID]) -> dict[UUID, tuple[State, float]]:
    """The state of each run, and how many seconds it has run."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)))
    deleted: dict[UUID, tuple[State, float]] = {one: (Crashed(message="the run was deleted"), 0.0) for one in ids}
    return deleted | {one.id: (one.state, one.total_run_time.total_seconds()) for one in runs if one.state}


def _count_try(tries: Counter[int], run: DatasetRun, shard: Shard, state: State) -> None:
    """Count a run that ended before this shard was finished; fail after too many."""
    tries[shard.index] += 1
    if tries[shard.index] < MAX_TRIES:
        return
    if state.is_completed():
        what = f"a worker reports it as made, but it is not: {run.finished_record(shard)}"
        do = "use the same version of the software and the same folders on all workers"
    else:
        what, do = f"{MAX_TRIES} workers did not make it; the last: {_text(state)}", None
    raise ModelError(f"shard {shard.index}: {what}", where=run.root.url, do=do)


def _text(state: State) -> str:
    return f"{state.name}: {state.message}" if state.message else state.name or str(state.type)


@contextmanager
def _cancelled_with_this_run(submitted: Sequence[ShardBatch]) -> Iterator[None]:
    """Cancel the submitted runs if the body raises: nobody waits for them any more."""
    try:
        yield
    except BaseException:
        with get_client(sync_client=True) as client:
            for batch in submitted:
                with suppress(httpx.HTTPError, ObjectNotFound):  # no server: a run ends by itself after its batch
                    client.set_flow_run_state(batch.id, Cancelling(message="The run that submitted it ended."))
        raise
