"""The two parts of a shard, images and outcomes: made by a task each, or reused from another data set.

Other association levels, splits or outcome models change no image, so a new version of a data set takes the images of
the old one: hard links on one disk, server-side copies within one object store, copies otherwise.
"""

from collections.abc import Mapping
from typing import Self

from prefect import task

from image_longitudinal.core.config import Section
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.random import subject_seeds
from image_longitudinal.models.design.association import draw_latents
from image_longitudinal.models.nlme.library import load_named
from image_longitudinal.storage.dataset.manifest import (
    Origin,
    Part,
    RootManifest,
    content_digest,
    part_is_intact,
    read_root_manifest,
    read_shard_manifest,
)
from image_longitudinal.storage.dataset.tables import write_observations, write_random_effects, write_subjects
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import FileRecord, Root
from image_longitudinal.tasks.engine.cache_keys import CACHED
from image_longitudinal.tasks.shards.derivation import linked_to_latents, outcomes_at
from image_longitudinal.tasks.shards.host_workers import render_here
from image_longitudinal.tasks.shards.image_shards import ShardPartResult
from image_longitudinal.tasks.shards.specs import DatasetSpec, Execution, ImageSpec, OutcomeSpec
from image_longitudinal.tasks.shards.study import study_info, write_study


@task(name="make-images", task_run_name="images of shard {spec.shard.index}", **CACHED)
def make_images(spec: ImageSpec, output: str, execution: Execution) -> ShardPartResult:
    """Latents → images of one shard, written as one Zarr shard each, by this process or one that it started."""
    return unshared(render_here(spec, output, execution))


@task(name="make-outcomes", task_run_name="outcomes of shard {spec.shard.index}", **CACHED)
def make_outcomes(spec: OutcomeSpec, output: str) -> ShardPartResult:
    """Latents → random effects at every association level → outcomes of one shard, written as Parquet."""
    root, shard, seed, settings = open_root(output), spec.shard, spec.seed, spec.outcomes
    load_named(settings.model)  # in a worker's process: the run has it, from the user's configuration
    if (info := study_info(spec)) is not None:
        written = tuple(write_study(root, spec, info))
        return unshared(ShardPartResult(root=output, part=Part(key=spec.digest, files=written)))
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


class ReusableParts(Section):
    """Parts of shards that exist elsewhere, by shard index."""

    images: Mapping[int, ShardPartResult] = {}
    outcomes: Mapping[int, ShardPartResult] = {}

    def of_shards(self, indices: list[int]) -> Self:
        """The parts of these shards only."""
        return type(self)(
            **{name: {index: parts[index] for index in indices if index in parts} for name, parts in self}
        )


def find_reusable(url: str, spec: DatasetSpec) -> tuple[Origin, ReusableParts]:
    """The parts of a published data set with the same digests as those of ``spec``, and how a manifest records them.

    Raises:
        StorageError: nothing is published there, or none of its images belongs to ``spec``.
    """
    root = open_root(url)
    manifest = read_root_manifest(root)
    present = {shard.index for shard in manifest.plan}
    found: dict[str, dict[int, ShardPartResult]] = {"image": {}, "outcomes": {}}
    for shard in spec.plan:
        made = read_shard_manifest(root, shard.index) if shard.index in present else None
        for name, key in spec.shard_keys(shard).items():
            part = made.parts.get(name) if made else None
            if part and part.key == key:
                found[name][shard.index] = unshared(ShardPartResult(root=root.url, part=part))
    if not found["image"]:
        raise StorageError(
            "no image of that data set can be reused",
            where=root.url,
            expected="the same image model, seed, shard size and batch size",
            got=f"another {_differences(manifest, spec)}",
            do="leave out --reuse to generate the images, or use these values of that data set",
        )
    reused = {name: len(parts) for name, parts in found.items() if parts}
    origin = Origin(name=manifest.name, identity=manifest.identity, manifest=content_digest(manifest), reused=reused)
    return origin, ReusableParts(images=found["image"], outcomes=found["outcomes"])


def _differences(there: RootManifest, spec: DatasetSpec) -> str:
    images = spec.images
    pairs = [
        ("image model", there.image.digest[:12], images.generator[:12]),
        ("seed", there.seed, images.seed),
        ("shard size", there.shard_size, images.shard_size),
        ("batch size", there.config.get("generator", {}).get("batch_size"), images.batch_size),
    ]
    changed = [f"{name} ({old}, here {new})" for name, old, new in pairs if old != new]
    return " and ".join(changed) or "version of this software"
