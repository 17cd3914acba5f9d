"""generate-dataset, the main job: latents → images and outcomes, shard by shard, then verified and published."""

from __future__ import annotations

from contextlib import closing

from prefect import flow, get_run_logger

from image_longitudinal.core.config import EXECUTION_SECTIONS, Config
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.flows.train_models import train_models
from image_longitudinal.models.imaging.backends import needs_training
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.quality.recoverability import choose_entries
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.storage.dataset.images import create_image_arrays
from image_longitudinal.storage.dataset.manifest import file_is_intact, is_published, read_root_manifest
from image_longitudinal.storage.dataset.run_claim import begin_run, check_configuration, check_same_dataset
from image_longitudinal.storage.io.filesystem import FileRecord, Root, clean_temporaries, open_root
from image_longitudinal.storage.io.lease import Lease, hold_lease
from image_longitudinal.tasks.engine.parameters import ConfigChoice, resolve
from image_longitudinal.tasks.engine.progress import DeviceShare, Progress
from image_longitudinal.tasks.shards.host_workers import drawing_processes
from image_longitudinal.tasks.shards.image_shards import image_model
from image_longitudinal.tasks.shards.making import done, make_here
from image_longitudinal.tasks.shards.publish import measure_images, publish_dataset
from image_longitudinal.tasks.shards.reuse import Reusable, find_reusable
from image_longitudinal.tasks.shards.shard_artifacts import LatestShard, ShardRow, show_shards
from image_longitudinal.tasks.shards.spec import DatasetSpec
from image_longitudinal.tasks.shards.work_pool import make_by_workers
from image_longitudinal.tasks.workspace import Workspace


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
) -> str:
    """Make and publish a data set; trains the image models first where none is named and none fits.

    Args:
        output: Where to, a local folder or any fsspec URL. A run that was stopped goes on; another data set is refused.
        images: Folder of scans to train on. Without one, phantom images.
        preset: Configuration to start from.
        overrides: PopulationParameters over the preset's, such as dataset.n_subjects=2000, one per line.
        config: A whole configuration in the preset's place; what it leaves out is as in the published method.
        model: Registered model (version or alias) to use in place of training; pretrained is the one that comes along.
        workspace: Local folder for prepared images, checkpoints and models.
        reuse: Published data set whose images this one shares, with other association levels, splits or outcomes. The
            manifest records it.
        refresh: Make everything anew, whatever is cached or in place; what is published stays until it is replaced.

    Returns:
        The address of the data set.
    """
    config = resolve(preset, config, overrides)
    root = open_root(output)
    check_configuration(root, config.model_dump(mode="json", exclude=set(EXECUTION_SECTIONS)))

    def decided() -> DatasetSpec:
        return specify(config, _model(images, config, model, workspace, refresh), Workspace.at(workspace))

    spec = decided() if is_published(root) and not refresh else None
    if spec and check_same_dataset(root, spec.identity) == "published" and _complete(root, spec):
        get_run_logger().info(f"{root.url} is published already and complete: nothing to do")
        return root.url  # without the lease: a finished data set may lie where nobody can write, not even a lock
    with hold_lease(root, get_run_logger().info) as lease, drawing_processes():
        spec = spec or decided()
        found = find_reusable(reuse, spec) if reuse else None
        plain = config.model_dump(mode="json", exclude=set(EXECUTION_SECTIONS))
        begin_run(root, spec.identity, plain, found.origin if found else None)
        clean_temporaries(root)
        arrays = create_image_arrays(
            root,
            n=config.dataset.n_subjects,
            height=spec.image_size,
            width=spec.image_size,
            latent_dim=spec.latent_dim,
            shard_size=config.dataset.shard_size,
            licence=config.dataset.licence,
        )
        shards = make_missing_shards(spec, root, lease, found, refresh)
        recoverability, read_by = measure_images(spec)
        lease.check()
        publish_dataset(root.url, spec, shards, list(arrays), recoverability, read_by)
    return root.url


def make_missing_shards(
    spec: DatasetSpec, root: Root, lease: Lease, found: Reusable | None = None, refresh: bool = False
) -> list[FileRecord]:
    """Make every shard that is not done, here or by workers of a pool; the records of all manifests, in order.

    What another data set has of a shard (``found``) is not made but shared.
    """
    plan = spec.plan
    checked = {shard.index: "asked for anew" if refresh else done(root, spec, shard) for shard in plan}
    records = {index: record for index, record in checked.items() if isinstance(record, FileRecord)}
    wanted = {index: why for index, why in checked.items() if isinstance(why, str)}
    rows = [ShardRow(index, "kept", "as wanted, files there") for index in records]
    subjects = sum(len(plan.shard(index)) for index in records)
    progress, share = Progress("make subjects", plan.n_subjects, "subjects", done=subjects), DeviceShare()
    latest = LatestShard(root, spec)
    make = make_by_workers if spec.config.compute.executor == "work-pool" else make_here
    with closing(make(root, spec, wanted, found.parts if found else None, refresh)) as making:
        for shard, record, state, why, use in making:
            lease.check()
            records[shard.index] = record
            rows.append(ShardRow(shard.index, state, why))
            subjects += len(shard)
            share.add(use)
            progress.update(subjects, "; ".join(filter(None, [f"shard {shard.index} in place", str(share)])))
            latest.show(shard)
    show_shards(spec, sorted(rows), records)
    return [records[shard.index] for shard in plan]


def specify(config: Config, version: ModelVersion | None, workspace: Workspace) -> DatasetSpec:
    """Everything that decides the data set, the entries that become η among it."""
    name = version.version if version else None
    model = image_model(str(workspace.root), name, config.generator, config.compute.device)
    spec = DatasetSpec(
        config=config,
        workspace=str(workspace.root),
        model_version=name,
        model_digest=model.digest,
        image_size=model.image_size,
        latent_dim=model.latent_dim,
        entries=(),
    )
    count = get_model(config.outcomes.model).n_random_effects
    chosen = config.dataset.eta_dims
    if chosen == "auto":
        recoverability = version.metadata["recoverability"] if version else measure_images(spec)[0]
        entries = tuple(choose_entries(recoverability, count))
    else:
        entries = chosen
    if len(entries) != count or not all(entry < model.latent_dim for entry in entries):
        raise ConfigError(
            "dataset.eta_dims do not fit",
            expected=f"{count} different entries from 0 to {model.latent_dim - 1} (model {config.outcomes.model})",
            got=list(entries),
        )
    return spec.model_copy(update={"entries": entries})


def _model(images: str | None, config: Config, model: str | None, workspace: str, refresh: bool) -> ModelVersion | None:
    if model is not None:
        return Workspace.at(workspace).model(model)
    if not needs_training(config.generator.backend):
        return None
    return train_models(images, config=config, workspace=workspace, refresh=refresh)


def _complete(root: Root, spec: DatasetSpec) -> bool:
    """Whether a published data set still has every file at its recorded size."""
    manifest = read_root_manifest(root)
    outside = all(file_is_intact(root, file, rehash=False) for file in (*manifest.files, *manifest.shards))
    return outside and all(isinstance(done(root, spec, shard), FileRecord) for shard in spec.plan)
