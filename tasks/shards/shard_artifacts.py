"""What people see of a run's shards: images of the latest one, device use, and a table of all shards."""

from prefect.artifacts import create_table_artifact

from image_longitudinal.core.plan import Shard
from image_longitudinal.core.progress import Throttle
from image_longitudinal.storage.dataset.sharded_array import ShardedArray, image_spec
from image_longitudinal.storage.io.root import Root
from image_longitudinal.tasks.engine.progress import LiveArtifact, Progress
from image_longitudinal.tasks.reports.pictures import mosaic, picture
from image_longitudinal.tasks.shards.image_shards import RenderUse
from image_longitudinal.tasks.shards.making import MadeShard
from image_longitudinal.tasks.shards.specs import DatasetSpec

SECONDS = 15.0  # between pictures, which cost a read and a write to a database
PICTURES, SIDE = 8, 96
SHOWN_SHARDS = 500  # rows of the table


class ShardProgress:
    """Progress over ``total`` subjects, ``done`` of them finished before, with the device use of rendered shards."""

    def __init__(self, total: int, done: int) -> None:
        self.done = done
        self._progress = Progress("make subjects", total, "subjects", done=done)
        self._uses: list[RenderUse] = []

    def add(self, made: MadeShard) -> None:
        """Report a finished shard."""
        self.done += len(made.shard)
        self._uses += [made.use] if made.use else []
        text = f"shard {made.shard.index} finished"
        if seconds := sum(use.seconds for use in self._uses):
            busy = sum(use.busy_seconds for use in self._uses) / seconds
            text += f"; device busy {min(busy, 1):.0%}, {self._uses[-1].batch_size} images at a time"
        self._progress.update(self.done, text)


class LatestShard:
    """Images of the shard that was finished last, one artifact updated in place."""

    def __init__(self, root: Root, spec: DatasetSpec) -> None:
        size = spec.images.image_size
        array = image_spec(size, size, spec.plan.shard_size)
        self._images = ShardedArray(root, array, spec.plan.n_subjects)
        self._step = max(1, size // SIDE)
        self._artifact = LiveArtifact("latest-shard", "Images of the shard that was finished last")
        self._throttle = Throttle(SECONDS, ready_at_once=True)

    def show(self, shard: Shard) -> None:
        """Show the first images of a shard, unless another one was shown a moment ago."""
        if self._throttle.ready():
            images = self._images.read(shard.start, min(shard.stop, shard.start + PICTURES))
            small = images[:, :: self._step, :: self._step]
            strip = picture(mosaic(small, len(small), scale=max(1, SIDE // small.shape[1])))
            self._artifact.show(f"Shard {shard.index}, subjects {shard.start} to {shard.stop - 1}\n\n{strip}")


def show_shards(shards: list[MadeShard]) -> None:
    """Create a table artifact of the shards: which were kept, reused from an earlier run or made, and why."""
    table = [
        {"shard": one.shard.index, "subjects": len(one.shard), "state": one.state, "why": one.why,
         "manifest": one.record.sha256[:12]}
        for one in shards[:SHOWN_SHARDS]
    ]  # fmt: skip
    more = f", the first {len(table)}" if len(table) < len(shards) else ""
    create_table_artifact(table, key="shards", description=f"{len(shards)} shards{more}")
