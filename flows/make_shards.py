"""make-shards: a stretch of a data set's shards, made by a worker of a pool for a run that hands them out."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from prefect import flow

from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.engine.progress import DeviceShare, Progress
from image_longitudinal.tasks.shards.host_workers import drawing_processes
from image_longitudinal.tasks.shards.making import done, make_here
from image_longitudinal.tasks.shards.reuse import Found, Parts
from image_longitudinal.tasks.shards.spec import DatasetSpec


@flow(name="make-shards", persist_result=False)
def make_shards(
    output: str,
    spec: DatasetSpec,
    shards: list[int],
    refresh: bool = False,
    images: dict[int, dict[str, Any]] | None = None,
    outcomes: dict[int, dict[str, Any]] | None = None,
) -> str:
    """Make some shards of a data set; generate-dataset asks for this where compute.executor is work-pool, people do not.

    Args:
        output: Address of the data set, which this machine must see as the run does that asks.
        spec: All that decides the data set.
        shards: Which ones; those that are done by now are left alone.
        refresh: Make them anew, done or not.
        images: By shard, where another data set has its images.
        outcomes: By shard, where another data set has its tables.

    Returns:
        What was done, in a sentence. The result is the shards' manifests.
    """
    root, plan = open_root(output), spec.plan
    reasons = {index: "asked for anew" if refresh else done(root, spec, plan.shard(index)) for index in shards}
    wanted = {index: why for index, why in reasons.items() if isinstance(why, str)}
    there = Parts(
        images={index: Found(part) for index, part in (images or {}).items()},
        outcomes={index: Found(part) for index, part in (outcomes or {}).items()},
    )
    subjects = sum(len(plan.shard(index)) for index in shards if index not in wanted)
    total = sum(len(plan.shard(index)) for index in shards)
    progress, share = Progress("make subjects", total, "subjects", done=subjects), DeviceShare()
    with drawing_processes(), closing(make_here(root, spec, wanted, there, refresh)) as making:
        for made in making:
            subjects += len(made.shard)
            share.add(made.use)
            progress.update(subjects, "; ".join(filter(None, [f"shard {made.shard.index} in place", str(share)])))
    return f"{len(wanted)} shards made, {len(shards) - len(wanted)} were done"
