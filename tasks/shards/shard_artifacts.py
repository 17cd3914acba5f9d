"""What a person sees of shards as they land: pictures of the latest one, and in the end which were made and why."""

from __future__ import annotations

import time
from typing import NamedTuple

from prefect.artifacts import create_table_artifact

from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.dataset.sharded_array import ShardedArray, image_spec
from image_longitudinal.storage.io.root import FileRecord, Root
from image_longitudinal.tasks.engine.artifacts import LiveMarkdown
from image_longitudinal.tasks.reports.pictures import mosaic, picture
from image_longitudinal.tasks.shards.spec import DatasetSpec

SECONDS = 15.0  # between pictures: they cost a read and a row in a database
PICTURES, SIDE = 8, 96
SHOWN_SHARDS = 500  # rows of the table


class ShardRow(NamedTuple):
    """How a shard came about: kept, reused or made, and why."""

    shard: int
    state: str
    why: str


class LatestShard:
    """A strip of images of the shard that landed last, one artifact updated in place."""

    def __init__(self, root: Root, spec: DatasetSpec) -> None:
        self.images = ShardedArray(
            root, image_spec(spec.image_size, spec.image_size, spec.config.dataset.shard_size), spec.plan.n_subjects
        )
        self.step = max(1, spec.image_size // SIDE)
        self.artifact = LiveMarkdown("latest-shard", "Images of the shard that landed last")
        self.shown = -SECONDS

    def show(self, shard: Shard) -> None:
        """Show the first images of a shard, unless another one was shown just now."""
        if time.monotonic() - self.shown < SECONDS:
            return
        self.shown = time.monotonic()
        images = self.images.read(shard.start, min(shard.stop, shard.start + PICTURES))[:, :: self.step, :: self.step]
        strip = mosaic(images, len(images), scale=max(1, SIDE // images.shape[1]))
        self.artifact.show(f"Shard {shard.index}, subjects {shard.start} to {shard.stop - 1}\n\n{picture(strip)}")


def show_shards(spec: DatasetSpec, rows: list[ShardRow], records: dict[int, FileRecord]) -> None:
    """Leave a table of the shards: which were kept, reused from an earlier run or made, and why."""
    table = [
        {
            "shard": row.shard,
            "subjects": len(spec.plan.shard(row.shard)),
            "state": row.state,
            "why": row.why,
            "manifest": records[row.shard].sha256[:12],
        }
        for row in rows[:SHOWN_SHARDS]
    ]
    more = f", the first {len(table)}" if len(table) < len(rows) else ""
    create_table_artifact(table, key="shards", description=f"{len(rows)} shards{more}")
