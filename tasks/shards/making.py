"""Generate shards in this run, several at a time, by tasks in threads. A manifest marks a finished shard."""

from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from image_longitudinal.core.config import ComputeConfig
from image_longitudinal.core.errors import StorageError, naming
from image_longitudinal.core.plan import Shard
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.storage.dataset.layout import SHARDS, shard_manifest_path
from image_longitudinal.storage.dataset.manifest import (
    NOT_MADE,
    Part,
    ShardManifest,
    finished_shard,
    owns_shards,
    write_shard_manifest,
)
from image_longitudinal.storage.io.root import FileRecord, Root
from image_longitudinal.tasks.engine.cancellation import stopping_tasks
from image_longitudinal.tasks.engine.gpu_slots import gpu_slots
from image_longitudinal.tasks.shards.host_workers import host_workers, worker_devices
from image_longitudinal.tasks.shards.image_shards import RenderUse, ShardPartResult
from image_longitudinal.tasks.shards.parts import ReusableParts, make_images, make_outcomes, place_part
from image_longitudinal.tasks.shards.specs import DatasetSpec, Execution

HASHED_AT_A_TIME = 4  # shards: enough for a disk's or a store's latency, few enough to read each in order


class MadeShard(NamedTuple):
    """A finished shard."""

    shard: Shard
    record: FileRecord  # of its manifest
    state: str  # kept, reused or made, for people
    why: str
    use: RenderUse | None = None  # how a device spent its time on it, if known


@dataclass(frozen=True)
class _PendingPart:
    """A part of a shard in progress: the task that makes it, or the result that another data set has."""

    task: Task[Any, ShardPartResult]
    parameters: dict[str, Any]
    source: PrefectFuture[ShardPartResult] | ShardPartResult

    @property
    def result(self) -> ShardPartResult:
        """Waits for the task; raises what it raised."""
        return self.source if isinstance(self.source, ShardPartResult) else self.source.result()

    @property
    def was_there(self) -> bool:
        """Whether the part comes from the cache or from another data set; valid once the result is known."""
        return isinstance(self.source, ShardPartResult) or self.source.state.name == "Cached"


@dataclass(frozen=True)
class DatasetRun:
    """A run that makes shards of a data set.

    ``reusable`` are parts that another data set has; they are linked or copied. With ``refresh``, finished shards are
    generated again and cached results are ignored.
    """

    root: Root
    spec: DatasetSpec
    execution: Execution
    reusable: ReusableParts = field(default_factory=ReusableParts)
    refresh: bool = False

    def owns_shards(self) -> bool:
        """Whether the shards that are finished at the root are those of this data set."""
        plan, keys = self.spec.plan, self.spec.shard_keys
        return owns_shards(self.root, lambda index: keys(plan.shard(index)), (shard.index for shard in plan))

    def forget(self, shards: Iterable[int]) -> None:
        """Remove the manifests of shards that must be made again: no worker may take them for finished."""
        for index in shards:
            self.root.remove(shard_manifest_path(index))

    def finished_record(self, shard: Shard, *, rehash: bool = False) -> FileRecord | str:
        """The record of a shard's manifest if the shard is finished and is this data set's; else why it is not."""
        return finished_shard(self.root, shard.index, self.spec.shard_keys(shard), rehash=rehash)

    def unfinished(
        self, indices: Iterable[int], *, rehash: bool = False
    ) -> tuple[dict[int, FileRecord], dict[int, str]]:
        """By shard index: the manifests of finished shards, and why each other shard must be made.

        Keys are computed and files looked up for shards that have a manifest: one listing tells which. ``rehash`` reads
        their files, several shards at a time: for those of an earlier run.
        """
        if self.refresh:
            return {}, dict.fromkeys(indices, "refresh was requested")
        there = set(self.root.files(SHARDS))
        records: dict[int, FileRecord] = {}
        wanted: dict[int, str] = {}

        def state(index: int) -> FileRecord | str:
            return self.finished_record(self.spec.plan.shard(index), rehash=rehash)

        chosen = list(indices)
        begun = [index for index in chosen if there and shard_manifest_path(index) in there]
        with ThreadPoolExecutor(HASHED_AT_A_TIME) as pool:  # hashing and reading release the interpreter lock
            found = dict(zip(begun, pool.map(state, begun), strict=True))
        for index in chosen:
            known = found.get(index, NOT_MADE)
            if isinstance(known, FileRecord):
                records[index] = known
            else:
                wanted[index] = known
        return records, wanted


def make_here(run: DatasetRun, wanted: Mapping[int, str]) -> Generator[MadeShard, None, None]:
    """Make shards, as many at a time as configured, and never fewer than keep every rendering device busy.

    GPU slots are held from the first shard to the last. ``wanted``: why each shard must be made, by its index; they are
    made in this order, and each is yielded once it is finished.
    """
    root, spec, execution, there = run.root, run.spec, run.execution, run.reusable
    compute, width = execution.compute, _width(execution.compute)
    renders = any(index not in there.images for index in wanted)
    pending: deque[tuple[Shard, dict[str, _PendingPart]]] = deque()  # parts by name
    waiting = iter(wanted)

    def submit(task: Task[Any, ShardPartResult], known: ShardPartResult | None, **parameters: Any) -> _PendingPart:
        task = task.with_options(refresh_cache=run.refresh)
        return _PendingPart(task, parameters, known or runner.submit(task, parameters))

    with (
        gpu_slots(compute) if renders else nullcontext(),
        ThreadPoolTaskRunner[ShardPartResult](max_workers=2 * width) as runner,
        host_workers(compute),
        stopping_tasks(),  # first to exit: the runner waits for its tasks to end
    ):
        while True:
            while len(pending) < width and (index := next(waiting, None)) is not None:
                shard = spec.plan.shard(index)
                images, outcomes = spec.images.of_shard(shard), spec.outcomes.of_shard(shard)
                known = there.images.get(index), there.outcomes.get(index)
                made = submit(make_images, known[0], spec=images, output=root.url, execution=execution)
                written = submit(make_outcomes, known[1], spec=outcomes, output=root.url)
                pending.append((shard, {"image": made, "outcomes": written}))
            if not pending:
                return
            shard, parts = pending.popleft()
            with naming(f"shard {shard.index}"):
                placed = {name: _place(root, part) for name, part in parts.items()}
                manifest = ShardManifest(index=shard.index, start=shard.start, stop=shard.stop, parts=placed)
                record = write_shard_manifest(root, manifest)
            use = None if parts["image"].was_there else parts["image"].result.use
            yield MadeShard(shard, record, *_how(parts, wanted[shard.index]), use)


def _width(compute: ComputeConfig) -> int:
    """How many shards are made at a time."""
    devices = len(worker_devices(compute)) or int(default_device(compute.device).type != "cpu")
    # Two per device: it renders one while the other is encoded and written.
    return max(compute.concurrent_shards, 2 * devices)


def _place(root: Root, pending: _PendingPart) -> Part:
    """Wait for a part and put its files in place; make it again if an earlier result is missing or damaged."""
    result = pending.result
    if not place_part(result, root, rehash=pending.was_there):
        result = pending.task.with_options(refresh_cache=True)(**pending.parameters)
        if not place_part(result, root, rehash=False):
            raise StorageError("files vanished just after they were written", where=root.url)
    return result.part


def _how(parts: dict[str, _PendingPart], why: str) -> tuple[str, str]:
    """State of a finished shard and the reason, for people."""
    there = ["images" if name == "image" else name for name, part in parts.items() if part.was_there]
    if not there:
        return "made", why
    return "reused" if len(there) == 2 else f"{there[0]} reused", f"{why}; found among earlier results"
