"""Shards made by the workers of a work pool: processes of their own, here and on machines that see the same folders.

A run hands out stretches of shards. Each becomes a run of the deployment make-shards, which a worker takes up when it
is free. Only orders travel there, and nothing comes back: what is done stands in the shards' manifests, for all to
read. So a lost worker costs the shard in its hand, whatever became of it; the rest of its stretch is handed out again.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import cast
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFlowRunFuture
from prefect.logging import get_run_logger
from prefect.states import Cancelling, Crashed

from image_longitudinal.core.errors import ConfigError, ModelError
from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.io.root import FileRecord, Root, clean_temporaries
from image_longitudinal.tasks.shards.making import Made, done
from image_longitudinal.tasks.shards.reuse import Parts
from image_longitudinal.tasks.shards.spec import DatasetSpec

POOL = "shards"  # its workers take one stretch at a time; the run that hands out never occupies one of them
DEPLOYMENT = "make-shards/make-shards"
MOST = 32  # shards of a stretch: its start, some seconds, is little beside them, and late workers find something to do
TRIES = 3  # times that one shard is handed out: then it is the shard, not its workers
LOOK = 2.0  # seconds between looks at states and manifests
PATIENCE = 60.0  # seconds without any sign of a worker, after which the log says what is waited for


@dataclass
class _Stretch:
    """Shards handed out together; those seen in place are taken out."""

    shards: deque[Shard]
    run: UUID
    name: str


def make_by_workers(
    root: Root, spec: DatasetSpec, wanted: Mapping[int, str], found: Parts | None = None, refresh: bool = False
) -> Generator[Made, None, None]:
    """Have shards made by a pool's workers, ``compute.concurrent_shards`` stretches handed out at a time.

    Stretches become shorter towards the end, so that workers end together. Arguments and yield as
    :func:`tasks.shards.making.make_here`, in the order in which shards are seen in place.

    Raises:
        ConfigError: the server has no such deployment.
        ModelError: a shard was handed out :data:`TRIES` times and is not there; which one, and how its run ended.
    """
    width, there, say = spec.config.compute.concurrent_shards, found or Parts(), get_run_logger()
    todo = deque(spec.plan.shard(index) for index in wanted)
    tries: Counter[int] = Counter()
    out: list[_Stretch] = []
    sign = time.monotonic()  # of life, from any worker
    with _cancelled_with_this_run(out):
        while todo or out:
            while todo and len(out) < width:
                size = min(MOST, -(-len(todo) // width))
                out.append(_hand_out(root, spec, [todo.popleft() for _ in range(size)], there, refresh))
            with suppress(ObjectNotFound):
                PrefectFlowRunFuture(out[0].run).wait(timeout=LOOK)  # and hears when this run is to be suspended
            states = _states(out)
            for stretch in list(out):
                # The state was read first: what a run had made when it ended stays as it is.
                state = states[stretch.run]
                ended = state.is_final()
                if ended or not refresh:  # else manifests of before cannot be told from new ones
                    for shard, record in _in_place(root, spec, stretch):
                        yield Made(shard, record, "made", f"{wanted[shard.index]}; by a worker", {})
                if ended:
                    out.remove(stretch)
                    if stretch.shards:
                        _count(tries, root, spec, stretch, state)
                        say.warning(f"{stretch.name}: {_told(state)}; {len(stretch.shards)} to be handed out again")
                        todo.extendleft(reversed(stretch.shards))
            if any(state.is_running() or state.is_final() for state in states.values()):
                sign = time.monotonic()
            elif time.monotonic() - sign > PATIENCE:
                say.warning(f"{len(out)} runs wait for a worker; start one with: make worker POOL={POOL}")
                sign = time.monotonic() + 9 * PATIENCE
        if tries:
            clean_temporaries(root)  # what lost workers had in hand


def _hand_out(root: Root, spec: DatasetSpec, shards: Sequence[Shard], there: Parts, refresh: bool) -> _Stretch:
    # A worker makes its shards one after another, or two at a time for each GPU of its own.
    compute = spec.config.compute.model_copy(update={"executor": "threads", "concurrent_shards": 1})
    order = spec.model_copy(update={"config": spec.config.model_copy(update={"compute": compute})})
    first, last = shards[0].index, shards[-1].index
    name = f"shard {first} of {root.url}" if first == last else f"shards {first} to {last} of {root.url}"
    indices = [shard.index for shard in shards]
    parameters = {
        "output": root.url,
        "spec": order.model_dump(mode="json"),
        "shards": indices,
        "refresh": refresh,
        "images": {index: there.images[index].value for index in indices if index in there.images},
        "outcomes": {index: there.outcomes[index].value for index in indices if index in there.outcomes},
    }
    try:
        run = cast(FlowRun, run_deployment(DEPLOYMENT, parameters=parameters, flow_run_name=name, timeout=0))
    except ObjectNotFound as error:
        raise ConfigError(
            "compute.executor=work-pool needs a Prefect server that has the deployment",
            expected=DEPLOYMENT,
            got="none there",
            do="start the service and tell it what it may run: make server, make deploy, make worker POOL=shards",
        ) from error
    return _Stretch(deque(shards), run.id, name)


def _states(out: Sequence[_Stretch]) -> dict[UUID, State]:
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[one.run for one in out])))
    gone: dict[UUID, State] = {one.run: Crashed(message="somebody deleted the run") for one in out}
    return gone | {run.id: run.state for run in runs if run.state}


def _in_place(root: Root, spec: DatasetSpec, stretch: _Stretch) -> Iterator[tuple[Shard, FileRecord]]:
    """Take the shards out that are in place: they are made in order, so the first one that is not ends the look."""
    while stretch.shards and isinstance(record := done(root, spec, stretch.shards[0]), FileRecord):
        yield stretch.shards.popleft(), record


def _count(tries: Counter[int], root: Root, spec: DatasetSpec, stretch: _Stretch, state: State) -> None:
    """A run ended before its stretch was done: too often with the same shard, and it is the shard."""
    shard = stretch.shards[0]
    tries[shard.index] += 1
    if tries[shard.index] < TRIES:
        return
    if state.is_completed():
        raise ModelError(
            f"shard {shard.index}: a worker says that it is made, and it is not: {done(root, spec, shard)}",
            where=root.url,
            do="give all workers the same version of the software and the same folders",
        )
    raise ModelError(f"shard {shard.index}: {TRIES} workers did not make it; the last: {_told(state)}", where=root.url)


def _told(state: State) -> str:
    return f"{state.name}: {state.message}" if state.message else state.name or str(state.type)


@contextmanager
def _cancelled_with_this_run(out: Sequence[_Stretch]) -> Iterator[None]:
    """What is handed out is cancelled where the body is left by an exception: nobody waits for it any more."""
    try:
        yield
    except BaseException:
        with get_client(sync_client=True) as client:
            for stretch in out:
                with suppress(httpx.HTTPError, ObjectNotFound):  # a server that is away: the run in hand ends by itself
                    client.set_flow_run_state(stretch.run, Cancelling(message="The run that asked for it ended."))
        raise
