"""The two parts of a shard, images and outcomes: each a task that writes whole files and returns their records."""

from __future__ import annotations

import json
from typing import Any

from prefect import task

from image_longitudinal.core.plan import Shard
from image_longitudinal.core.random import subject_seeds
from image_longitudinal.models.design.association import draw_latents
from image_longitudinal.models.nlme.library import model_content
from image_longitudinal.storage.dataset.manifest import Part, part_is_intact
from image_longitudinal.storage.dataset.tables import write_observations, write_random_effects, write_subjects
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import FileRecord, Root
from image_longitudinal.tasks.engine.cache_keys import key_of
from image_longitudinal.tasks.engine.gpu_slots import holds_gpu_slots
from image_longitudinal.tasks.engine.task_options import CACHED
from image_longitudinal.tasks.shards.derivation import linked_to_latents, outcomes_at
from image_longitudinal.tasks.shards.host_workers import host_workers
from image_longitudinal.tasks.shards.image_shards import ImageJob, make_image_shard
from image_longitudinal.tasks.shards.spec import DatasetSpec

IMAGES_VERSION = 3  # raise it whenever the same latents and model would give other image files
OUTCOMES_VERSION = 5  # raise it whenever the same latents would give other tables


def image_key(spec: DatasetSpec, shard: Shard) -> str:
    """Digest of everything that decides the image files of a shard: nothing of the outcomes."""
    return key_of(
        "make-images",
        IMAGES_VERSION,
        model=spec.model_digest,
        seed=spec.config.seed,
        start=shard.start,
        stop=shard.stop,
        shard_size=spec.config.dataset.shard_size,
        batch_size=spec.config.generator.batch_size,  # decides the last bits of a network's arithmetic
    )


def outcome_key(spec: DatasetSpec, shard: Shard) -> str:
    """Digest of everything that decides the tables of a shard: nothing of the pixels."""
    return key_of(
        "make-outcomes",
        OUTCOMES_VERSION,
        seed=spec.config.seed,
        latent_dim=spec.latent_dim,
        entries=spec.entries,
        association=spec.config.dataset.association,
        licence=spec.config.dataset.licence,
        outcomes=spec.config.outcomes,
        model=model_content(spec.config.outcomes.model),
        index=shard.index,
        splits=[[part.split, part.start, part.stop] for part in shard.splits],
    )


@task(name="make-images", task_run_name="images of shard {index}", **CACHED)
@holds_gpu_slots
def make_images(key: str, index: int, output: str, spec: DatasetSpec) -> dict[str, Any]:
    """Latents → images of one shard, written as one Zarr shard each; here, or by a process of this host that does."""
    workers = host_workers(spec)
    made = workers.run(ImageJob(spec, index, output)) if workers else make_image_shard(ImageJob(spec, index, output))
    return _result(output, key, made.records) | {"use": made.use}


@task(name="make-outcomes", task_run_name="outcomes of shard {index}", **CACHED)
def make_outcomes(key: str, index: int, output: str, spec: DatasetSpec) -> dict[str, Any]:
    """Latents → random effects at every association level → outcomes of one shard, written as Parquet."""
    shard, seed, licence = spec.plan.shard(index), spec.config.seed, spec.config.dataset.licence
    ids = range(shard.start, shard.stop)
    settings = spec.config.outcomes
    linked = linked_to_latents(draw_latents(seed, ids, spec.latent_dim), spec.entries, settings)
    root = open_root(output)
    records = [*write_subjects(root, shard, seeds=subject_seeds(seed, ids), eta=linked, licence=licence)]
    for level in spec.config.dataset.association:
        made = outcomes_at(level, linked, settings, seed, ids)
        records += write_random_effects(root, shard, level, eta=made.eta, parameters=made.parameters, licence=licence)
        records += write_observations(
            root, shard, level, times=settings.times, doses=settings.given, dv=made.dv, visits=made.visits,
            licence=licence,
        )  # fmt: skip
    return _result(output, key, records)


def place_part(result: dict[str, Any], root: Root) -> Part | None:
    """The part that a task made, in its place under ``root``; None where its files are gone or damaged.

    A result may be a cached one: its files are hashed, and those of another data set linked (or copied) here.
    """
    part = Part(key=result["key"], files=tuple(FileRecord(**record) for record in result["files"]))
    source = open_root(result["output"])
    if not part_is_intact(source, part, rehash=True):
        return None
    if source.url != root.url:
        for file in part.files:
            root.link_or_copy(source, file.path, file.path)
    return part


def part_result(url: str, part: Part) -> dict[str, Any]:
    """What the task that made a part returned: a part at ``url`` that :func:`place_part` can place elsewhere."""
    return _result(url, part.key, part.files)


def _result(output: str, key: str, records: tuple[FileRecord, ...] | list[FileRecord]) -> dict[str, Any]:
    result = {"output": output, "key": key, "files": [record.model_dump(mode="json") for record in records]}
    # Fresh objects, as they come back from the cache: Prefect takes a parameter that is the same object as a part of
    # an earlier result for a dependency on it, and would draw an arrow for every use of the address.
    return json.loads(json.dumps(result))
