"""The two parts of a shard, images and outcomes: each a task that writes whole files and returns their records."""

from contextlib import nullcontext

from prefect import task

from image_longitudinal.core.random import subject_seeds
from image_longitudinal.models.design.association import draw_latents
from image_longitudinal.storage.dataset.manifest import Part, part_is_intact
from image_longitudinal.storage.dataset.tables import write_observations, write_random_effects, write_subjects
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import FileRecord, Root
from image_longitudinal.tasks.engine.cache_keys import CACHED
from image_longitudinal.tasks.engine.gpu_slots import gpu_slots
from image_longitudinal.tasks.shards.derivation import linked_to_latents, outcomes_at
from image_longitudinal.tasks.shards.host_workers import render_here
from image_longitudinal.tasks.shards.image_shards import ShardPartResult
from image_longitudinal.tasks.shards.spec import Execution, ImageSpec, OutcomeSpec


@task(name="make-images", task_run_name="images of shard {spec.shard.index}", **CACHED)
def make_images(spec: ImageSpec, output: str, execution: Execution) -> ShardPartResult:
    """Latents → images of one shard, written as one Zarr shard each, by this process or one that it started."""
    # A Dask worker may be on another machine than the flow, which holds the slots in all other cases.
    with gpu_slots(execution.compute) if execution.compute.executor == "dask" else nullcontext():
        return unshared(render_here(spec, output, execution))


@task(name="make-outcomes", task_run_name="outcomes of shard {spec.shard.index}", **CACHED)
def make_outcomes(spec: OutcomeSpec, output: str) -> ShardPartResult:
    """Latents → random effects at every association level → outcomes of one shard, written as Parquet."""
    root, shard, seed, settings = open_root(output), spec.shard, spec.seed, spec.outcomes
    ids = range(shard.start, shard.stop)
    linked = linked_to_latents(draw_latents(seed, ids, spec.latent_dim), spec.eta_dims, settings)
    licence, seeds = spec.licence, subject_seeds(seed, ids)
    records: list[FileRecord] = [*write_subjects(root, shard, seeds=seeds, eta=linked, licence=licence)]
    for level in spec.association:
        made = outcomes_at(level, linked, settings, seed, ids)
        records += write_random_effects(root, shard, level, eta=made.eta, parameters=made.parameters, licence=licence)
        records += write_observations(
            root, shard, level, times=settings.times, doses=settings.given, dv=made.dv, visits=made.visits,
            licence=licence,
        )  # fmt: skip
    return unshared(ShardPartResult(root=output, part=Part(key=spec.digest, files=tuple(records))))


def unshared(result: ShardPartResult) -> ShardPartResult:
    """A copy whose text is not shared with other objects.

    Prefect tracks results by object identity: a later task parameter that is the same string object as a part of an
    earlier result would count as a dependency, and the UI would draw an arrow for every use of the address.
    """
    return ShardPartResult.model_validate_json(result.model_dump_json())


def place_part(result: ShardPartResult, root: Root, *, rehash: bool) -> bool:
    """Link or copy the files of a part to ``root``, if they are elsewhere; False if files are missing or damaged.

    ``rehash`` reads all files first: for results of earlier runs. Files of this run were hashed as they were written.
    """
    source = open_root(result.root)
    if not part_is_intact(source, result.part, rehash=rehash):
        return False
    if source.url != root.url:
        for file in result.part.files:
            root.link_or_copy(source, file.path, file.path)
    return True
