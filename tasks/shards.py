"""The two parts of a shard, images and outcomes: each a task that writes whole files and returns their records."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from prefect import task

from core.config import GeneratorConfig
from core.plan import Shard
from core.random import stream_key, subject_seeds
from models.association import associate, draw_latents, linked_effects, scale_effects
from models.backends import ImageModel, generate_in_batches, load_image_model, needs_training
from models.nlme.dosing import Dose
from models.nlme.simulation import get_model, individual_parameters, observe, simulate
from storage.filesystem import FileRecord, Root, open_root
from storage.images import write_image_shard
from storage.manifest import Part, part_is_intact
from storage.tables import write_observations, write_random_effects, write_subjects
from tasks.keys import key_of
from tasks.options import CACHED
from tasks.spec import DatasetSpec
from tasks.workspace import Workspace

IMAGES_VERSION = 1  # raise it whenever the same latents and model would give other image files
OUTCOMES_VERSION = 1  # raise it whenever the same latents would give other tables


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
        outcomes=spec.config.outcomes,
        index=shard.index,
        splits=[[part.split, part.start, part.stop] for part in shard.splits],
    )


@task(name="make-images", task_run_name="images of shard {index}", **CACHED)
def make_images(key: str, index: int, output: str, spec: DatasetSpec) -> dict[str, Any]:
    """Latents → images of one shard, written as one Zarr shard each."""
    shard = spec.plan.shard(index)
    ids = range(shard.start, shard.stop)
    latents = draw_latents(spec.config.seed, ids, spec.latent_dim)
    model = image_model(spec.workspace, spec.model_version, spec.config.generator, spec.config.compute.device)
    images = generate_in_batches(model, latents, subject_seeds(spec.config.seed, ids), spec.config.generator.batch_size)
    root = open_root(output)
    records = write_image_shard(root, shard, images, latents, shard_size=spec.config.dataset.shard_size)
    return _result(output, key, records)


@task(name="make-outcomes", task_run_name="outcomes of shard {index}", **CACHED)
def make_outcomes(key: str, index: int, output: str, spec: DatasetSpec) -> dict[str, Any]:
    """Latents → random effects at every association level → outcomes of one shard, written as Parquet."""
    shard, seed = spec.plan.shard(index), spec.config.seed
    ids = range(shard.start, shard.stop)
    settings = spec.config.outcomes
    model = get_model(settings.model)
    doses = [Dose(dose.time, dose.amt, dose.cmt) for dose in settings.doses]
    linked = scale_effects(linked_effects(draw_latents(seed, ids, spec.latent_dim), spec.entries), model.omega)
    root = open_root(output)
    records = [*write_subjects(root, shard, seeds=subject_seeds(seed, ids), eta=linked)]
    for level in spec.config.dataset.association:
        eta = associate(linked, level, omega=model.omega, seed=seed, ids=ids)
        parameters = individual_parameters(model, eta)
        prediction = simulate(model, eta, settings.times, doses, ids=ids)
        dv = observe(model, prediction, key=stream_key(seed, "residual", float(level)), ids=ids)
        named = {name: parameters[:, column].copy() for column, name in enumerate(model.parameter_names)}
        records += write_random_effects(root, shard, level, eta=eta, parameters=named)
        records += write_observations(
            root, shard, level, times=settings.times, doses=[(d.time, d.amt, d.cmt) for d in settings.doses], dv=dv
        )
    return _result(output, key, records)


def image_model(workspace: str, version: str | None, generator: GeneratorConfig, device: str) -> ImageModel:
    """The image model, loaded once per process."""
    return _image_model(workspace, version, generator.model_dump_json(), device)


@lru_cache(maxsize=1)
def _image_model(workspace: str, version: str | None, generator: str, device: str) -> ImageModel:
    config = GeneratorConfig.model_validate_json(generator)
    registered = Workspace.at(workspace).registry.get(version) if version and needs_training(config.backend) else None
    return load_image_model(config, registered, device)


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
