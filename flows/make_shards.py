"""make-shards: a batch of a data set's shards, made by a worker of a pool for the run that submitted it."""

from contextlib import closing

from prefect import flow

from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.shards.making import DatasetRun, make_here
from image_longitudinal.tasks.shards.parts import ReusableParts
from image_longitudinal.tasks.shards.shard_artifacts import ShardProgress
from image_longitudinal.tasks.shards.specs import DatasetSpec, Execution


@flow(name="make-shards", persist_result=False)
def make_shards(
    output: str,
    spec: DatasetSpec,
    execution: Execution,
    shards: list[int],
    reusable: ReusableParts | None = None,
    refresh: bool = False,
) -> str:
    """Make some shards of a data set. Submitted by generate-dataset with compute.executor=work-pool, not by people.

    Args:
        output: Address of the data set; this machine must see it under the same address as the submitting run.
        spec: What decides the data set.
        execution: Where the image model is, and where to compute.
        shards: Indices of the shards; finished ones are skipped.
        reusable: ReusableParts of these shards that another data set has.
        refresh: Make them again even if they are finished.

    Returns:
        What was done, in a sentence. The result is the shard manifests.
    """
    run = DatasetRun(open_root(output), spec, execution, reusable or ReusableParts(), refresh)
    chosen = [spec.plan.shard(index) for index in shards]
    finished, wanted = run.unfinished(shards)
    progress = ShardProgress(sum(map(len, chosen)), sum(len(shard) for shard in chosen if shard.index in finished))
    with closing(make_here(run, wanted)) as making:
        for made in making:
            progress.add(made)
    return f"{len(wanted)} shards made, {len(finished)} were finished before"
