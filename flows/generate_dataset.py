"""generate-dataset, the main job: latents → images and outcomes, shard by shard, then verify and publish."""

from contextlib import closing
from dataclasses import replace

from prefect import flow, get_run_logger

from image_longitudinal.core.config import Config
from image_longitudinal.core.gates import GateKind
from image_longitudinal.flows.train_models import train_models
from image_longitudinal.models.design.study import check_study
from image_longitudinal.models.imaging.backends import describe, needs_training
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.quality.recoverability import most_recoverable
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.storage.dataset.images import create_image_arrays
from image_longitudinal.storage.dataset.manifest import NOT_MADE, file_is_intact, is_published, read_root_manifest
from image_longitudinal.storage.dataset.run_claim import begin_run, check_configuration, check_same_dataset
from image_longitudinal.storage.io.lease import Lease
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import FileRecord, clean_temporaries
from image_longitudinal.tasks.engine.attempts import run_lease
from image_longitudinal.tasks.engine.gates import pass_gates
from image_longitudinal.tasks.engine.parameters import ConfigChoice, resolve
from image_longitudinal.tasks.engine.run_table import run_table
from image_longitudinal.tasks.preflight import check_eta_dims, check_sources_are_used
from image_longitudinal.tasks.shards.gates import check_before_generating, dataset_gates
from image_longitudinal.tasks.shards.making import DatasetRun, MadeShard, make_here
from image_longitudinal.tasks.shards.parts import find_reusable
from image_longitudinal.tasks.shards.publish import measure_images, publish_dataset, read_images
from image_longitudinal.tasks.shards.shard_artifacts import LatestShard, ShardProgress, show_shards
from image_longitudinal.tasks.shards.specs import DatasetSpec, Execution, ImageSpec, OutcomeSpec
from image_longitudinal.tasks.shards.work_pool import cancel_leftovers, make_by_workers
from image_longitudinal.tasks.workspace import Workspace

LISTED = 20  # shards that are made again, in the log


@flow(name="generate-dataset", flow_run_name="generate {output}", persist_result=False)
def generate_dataset(
    output: str,
    images: str | None = None,
    preset: ConfigChoice = "demo",
    overrides: tuple[str, ...] = (),
    config: Config | None = None,
    model: str | None = None,
    workspace: str = "workspace",
    reuse: str | None = None,
    refresh: bool = False,
    accept: tuple[GateKind, ...] = (),
) -> str:
    """Generate and publish a data set. Trains the image models first, if none is named and no trained one fits.

    Args:
        output: A local folder or any fsspec URL. Continues an interrupted run; refuses a folder with another data set.
        images: Folder of scans to train on. Without one, phantom images.
        preset: Configuration to start from.
        overrides: Values over the preset's, such as dataset.n_subjects=2000, one per line.
        config: A whole configuration instead of a preset; omitted values are those of the published method.
        model: Registered model (version or alias) to use instead of training; pretrained is the bundled one.
        workspace: Local folder for prepared images, checkpoints and models.
        reuse: Published data set whose images this one shares, with other association levels, splits or outcomes. The
            manifest records it.
        refresh: Make everything again, cached or not. A published data set stays until it is replaced.
        accept: Gates that may fail, by kind: latents, recoverability, fidelity, copies. What failed stays on record.

    Returns:
        The address of the data set.

    Raises:
        ConfigError: a model or scans are named that would not be used: the images are phantoms, or both are named.
        RefusedByGateError: model or images are not good enough: see the section gates of the configuration.
    """
    config = resolve(preset, config, overrides)
    check_sources_are_used(config, images, model)
    root, place = open_root(output), Workspace.at(workspace)
    recorded = config.recorded
    check_configuration(root, recorded)

    def decide() -> DatasetRun:
        version = None
        if model is not None:
            version = place.model(model)
        elif needs_training(config.generator.backend):
            version = train_models(images, config=config, workspace=str(place.root), refresh=refresh, accept=accept)
        return DatasetRun(root, specify(config, version, place), Execution.of(config, version, place), refresh=refresh)

    run = decide() if is_published(root) and not refresh else None
    if run and check_same_dataset(root, run.spec.digest) == "published" and _is_complete(run):
        get_run_logger().info(f"{root.url} is published and complete: nothing to do")
        return root.url  # without a lease: a finished data set may be in a place where nobody can write
    with run_lease(root) as lease, run_table(place.root) as table:
        cancel_leftovers(root)
        run, origin = run or decide(), None
        spec, execution = run.spec, run.execution
        if reuse:
            origin, reusable = find_reusable(reuse, spec)
            run = replace(run, reusable=reusable)
        check_before_generating(config, spec, execution, accept)
        begin_run(root, spec.digest, recorded, origin, owns_shards=run.owns_shards)
        clean_temporaries(root)
        arrays = create_image_arrays(
            root, n=spec.plan.n_subjects, height=spec.images.image_size, width=spec.images.image_size,
            latent_dim=spec.images.latent_dim, shard_size=spec.plan.shard_size, licence=spec.outcomes.licence,
        )  # fmt: skip
        shards = make_missing_shards(run, lease)
        found = read_images(root.url, spec, execution, shards, list(arrays))
        table.note("read back", "R² " + ", ".join(f"{one:.2f}" for one in found.r_squared))
        gates = dataset_gates(config, spec, execution, found, accept)
        pass_gates(gates, "data set", "the data set is not published; its shards stay")
        lease.check()
        publish_dataset(root.url, spec, execution, shards, list(arrays), found, gates)
    return root.url


def make_missing_shards(run: DatasetRun, lease: Lease) -> list[FileRecord]:
    """Make every unfinished shard, here or by workers of a pool; returns the records of all manifests, in order."""
    plan = run.spec.plan
    records, wanted = run.unfinished(plan.indices, rehash=True)
    if again := {index: why for index, why in wanted.items() if why != NOT_MADE and not run.refresh}:
        for index, why in list(again.items())[:LISTED]:
            get_run_logger().warning(f"shard {index} is made again: {why}")
        run.forget(again)
    kept, why = records.items(), "up to date, files present"
    shards = [MadeShard(plan.shard(index), record, "kept", why) for index, record in kept]
    progress = ShardProgress(plan.n_subjects, sum(len(one.shard) for one in shards))
    latest = LatestShard(run.root, run.spec)
    make = make_by_workers if run.execution.compute.executor == "work-pool" else make_here
    with closing(make(run, wanted)) as making:
        for made in making:
            lease.check()
            shards.append(made)
            progress.add(made)
            latest.show(made.shard)
    shards.sort(key=lambda one: one.shard.index)
    show_shards(shards)
    return [one.record for one in shards]


def specify(config: Config, version: ModelVersion | None, workspace: Workspace) -> DatasetSpec:
    """The spec of the data set. Loads no network, except to measure a model whose metadata lacks recoverability.

    Raises:
        ConfigError: dataset.eta_dims does not fit the models.
    """
    described = describe(config.generator, version)
    images, count = ImageSpec.of(config, described), get_model(config.outcomes.model).n_random_effects
    eta_dims = config.dataset.eta_dims
    if eta_dims == "auto":
        if version:
            recoverability = version.metadata.measured.recoverability
        else:
            recoverability = measure_images(images, config.probe, Execution.of(config, version, workspace)).r_squared
        eta_dims = tuple(most_recoverable(recoverability, count))
    check_eta_dims(eta_dims, config, described.latent_dim)
    levels = config.dataset.association
    check_study(config.study, config.outcomes, config.seed, levels, described.latent_dim, eta_dims)
    return DatasetSpec.of(config, images, OutcomeSpec.of(config, described.latent_dim, eta_dims), version)


def _is_complete(run: DatasetRun) -> bool:
    """Whether every file of a published data set is as recorded."""
    manifest = read_root_manifest(run.root)
    if not all(file_is_intact(run.root, file, rehash=True) for file in manifest.files):
        return False
    records, missing = run.unfinished(run.spec.plan.indices, rehash=True)
    return not missing and tuple(records.values()) == manifest.shards
