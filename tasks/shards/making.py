"""Generate shards in this run, several at a time, by tasks of a runner. A manifest marks a finished shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner

from image_longitudinal.core.config import ComputeConfig
from image_longitudinal.core.errors import StorageError, naming
from image_longitudinal.core.plan import Shard
from image_longitudinal.models.training.tensors import default_device
from image_longitudinal.storage.dataset.manifest import ShardManifest, finished_shard, write_shard_manifest
from image_longitudinal.storage.io.filesystem import FileRecord, Root
from image_longitudinal.tasks.engine.cancellation import stopping_tasks
from image_longitudinal.tasks.engine.gpu_slots import gpu_slots
from image_longitudinal.tasks.engine.task_runners import shard_runner
from image_longitudinal.tasks.shards.host_workers import host_workers, worker_devices
from image_longitudinal.tasks.shards.image_shards import RenderUse
from image_longitudinal.tasks.shards.parts import ShardPartResult, make_images, make_outcomes, place_part
from image_longitudinal.tasks.shards.reuse import ReusableParts
from image_longitudinal.tasks.shards.spec import DatasetSpec, Execution

Pending = PrefectFuture[ShardPartResult] | ShardPartResult  # to be made by a task, or taken from another data set


class MadeShard(NamedTuple):
    """A finished shard."""

    shard: Shard
    record: FileRecord  # of its manifest
    state: str  # made or reused, for people
    why: str
    use: RenderUse | None = None  # how a device spent its time on it, if known


class _PendingShard(NamedTuple):
    shard: Shard
    images: Pending
    outcomes: Pending


def finished_record(root: Root, spec: DatasetSpec, shard: Shard) -> FileRecord | str:
    """The record of a shard's manifest if the shard is finished and is this data set's; else why it must be made."""
    return finished_shard(root, shard.index, spec.shard_keys(shard))


def unfinished_shards(
    root: Root, spec: DatasetSpec, shards: list[Shard], refresh: bool
) -> tuple[dict[int, FileRecord], dict[int, str]]:
    """By shard index: the manifests of finished shards, and why each other shard must be made."""
    found = {
        shard.index: "refresh was requested" if refresh else finished_record(root, spec, shard) for shard in shards
    }
    records = {index: record for index, record in found.items() if isinstance(record, FileRecord)}
    return records, {index: why for index, why in found.items() if isinstance(why, str)}


def make_here(
    root: Root,
    spec: DatasetSpec,
    execution: Execution,
    wanted: Mapping[int, str],
    reusable: ReusableParts | None = None,
    refresh: bool = False,
) -> Generator[MadeShard, None, None]:
    """Make shards, as many at a time as configured, and never fewer than keep every rendering device busy.

    GPU slots are held from the first shard to the last.

    Args:
        root: where the data set is.
        spec: the data set.
        execution: where the image model is, and where and how wide to compute.
        wanted: why each shard must be made, by its index; they are made in this order.
        reusable: parts that another data set has; they are linked or copied.
        refresh: also ignore cached results of earlier runs.

    Yields:
        Each shard once it is finished.
    """
    compute, there = execution.compute, reusable or ReusableParts()
    width = _width(compute)
    renders = compute.executor != "dask" and any(index not in there.images for index in wanted)
    pending: deque[_PendingShard] = deque()
    waiting = iter(wanted)
    with (
        gpu_slots(compute) if renders else nullcontext(),
        shard_runner(compute, width) as runner,
        host_workers(compute),
        stopping_tasks(),  # first to exit: the runner waits for its tasks to end
    ):
        while True:
            while len(pending) < width and (index := next(waiting, None)) is not None:
                pending.append(_submit(runner, root, spec, execution, spec.plan.shard(index), there, refresh))
            if not pending:
                return
            oldest = pending.popleft()
            with naming(f"shard {oldest.shard.index}"):
                record = _finish(root, spec, execution, oldest)
            use = None if _was_there(oldest.images) else _result(oldest.images).use
            yield MadeShard(oldest.shard, record, *_how(oldest, wanted[oldest.shard.index]), use)


def _width(compute: ComputeConfig) -> int:
    """How many shards are made at a time."""
    devices = len(worker_devices(compute)) or int(default_device(compute.device).type != "cpu")
    # Two per device: it renders one while the other is encoded and written.
    return max(compute.concurrent_shards, 2 * devices if compute.executor == "threads" else devices)


def _submit(
    runner: TaskRunner[Any], root: Root, spec: DatasetSpec, execution: Execution, shard: Shard, there: ReusableParts,
    refresh: bool,
) -> _PendingShard:  # fmt: skip
    images, outcomes = (task.with_options(refresh_cache=refresh) for task in (make_images, make_outcomes))
    shared = {"output": root.url}
    return _PendingShard(
        shard,
        there.images.get(shard.index)
        or runner.submit(images, {"spec": spec.images.of_shard(shard), "execution": execution, **shared}),
        there.outcomes.get(shard.index) or runner.submit(outcomes, {"spec": spec.outcomes.of_shard(shard), **shared}),
    )


def _finish(root: Root, spec: DatasetSpec, execution: Execution, pending: _PendingShard) -> FileRecord:
    """Wait for both parts of a shard, put their files in place and write its manifest: then it is finished."""
    shard = pending.shard
    images, outcomes = _result(pending.images), _result(pending.outcomes)
    if not place_part(images, root, rehash=_was_there(pending.images)):
        again = make_images.with_options(refresh_cache=True)
        images = again(spec.images.of_shard(shard), root.url, execution)
        _check_placed(images, root)
    if not place_part(outcomes, root, rehash=_was_there(pending.outcomes)):
        outcomes = make_outcomes.with_options(refresh_cache=True)(spec.outcomes.of_shard(shard), root.url)
        _check_placed(outcomes, root)
    parts = {"image": images.part, "outcomes": outcomes.part}
    return write_shard_manifest(root, ShardManifest(index=shard.index, start=shard.start, stop=shard.stop, parts=parts))


def _check_placed(result: ShardPartResult, root: Root) -> None:
    if not place_part(result, root, rehash=False):
        raise StorageError("files vanished just after they were written", where=root.url)


def _result(pending: Pending) -> ShardPartResult:
    return pending if isinstance(pending, ShardPartResult) else pending.result()


def _was_there(pending: Pending) -> bool:
    """Whether a part comes from the cache or from another data set; valid once its result is known."""
    return isinstance(pending, ShardPartResult) or pending.state.name == "Cached"


def _how(shard: _PendingShard, why: str) -> tuple[str, str]:
    """State of a finished shard and the reason, for people."""
    there = [name for name, part in (("images", shard.images), ("outcomes", shard.outcomes)) if _was_there(part)]
    if not there:
        return "made", why
    return "reused" if len(there) == 2 else f"{there[0]} reused", f"{why}; found among earlier results"
