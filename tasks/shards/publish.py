"""The last stage: report, card, verification, and the root manifest that makes the data set public."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version as package_version

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from image_longitudinal.core.config import EXECUTION_SECTIONS
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import StorageError
from image_longitudinal.models.design.association import AssociationSums, is_identity
from image_longitudinal.models.imaging.backends import load_vae, measure_recoverability
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.storage.dataset.card import CITATION, write_card
from image_longitudinal.storage.dataset.layout import RUN_FILE
from image_longitudinal.storage.dataset.manifest import ImageInfo, Origin, RootManifest, publish
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.run_claim import origin_of_run
from image_longitudinal.storage.dataset.tables import Dose
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.filesystem import FileRecord, Root, file_record, open_root
from image_longitudinal.tasks.engine.gpu_slots import holds_gpu_slots
from image_longitudinal.tasks.reports.dataset_report import (
    REPORT,
    achieved_association,
    association_rows,
    thumbnails,
    write_report,
)
from image_longitudinal.tasks.reports.pictures import picture
from image_longitudinal.tasks.shards.image_shards import image_model
from image_longitudinal.tasks.shards.spec import DatasetSpec

PACKAGES = ("image-longitudinal", "diffusers", "numpy", "pyarrow", "torch", "zarr")


@task(name="measure-recoverability", task_run_name="read z back from images", persist_result=False)
@holds_gpu_slots
def measure_images(spec: DatasetSpec) -> tuple[list[float], str]:
    """R² per latent entry of images made exactly as this data set's; the model's own figure where it is the same."""
    generator, probe = spec.config.generator, spec.config.probe
    version = registered(spec)
    same_way = (generator.scheduler, generator.steps, generator.decoder, generator.precision) == (
        probe.scheduler, probe.steps, "full", "float32",
    )  # fmt: skip
    recorded = version and version.metadata["probe"] == probe.model_dump(mode="json") and same_way
    if version and recorded and generator.backend == version.metadata["backend"]:
        return version.metadata["recoverability"], version.metadata["read_by"]
    return _measured(spec.model_copy(update={"entries": ()}).model_dump_json())


@lru_cache(maxsize=1)
def _measured(spec: str) -> tuple[list[float], str]:
    """Measured once for the choice of the entries and for the report, which ask one after the other."""
    asked = DatasetSpec.model_validate_json(spec)
    probe, version = asked.config.probe, registered(asked)
    model = image_model(asked.workspace, asked.model_version, asked.config.generator, asked.config.compute.device)
    vae = load_vae(version) if version else None
    return measure_recoverability(model, vae, n=probe.n_images, batch_size=probe.batch_size, seed=asked.config.seed)


@task(name="publish-dataset", task_run_name="publish {output}", persist_result=False)
def publish_dataset(
    output: str,
    spec: DatasetSpec,
    shards: list[FileRecord],
    arrays: list[FileRecord],
    recoverability: list[float],
    read_by: str,
) -> None:
    """Write report and card, verify every file, then publish.

    Raises:
        StorageError: verification found something; nothing is published.
    """
    root = open_root(output)
    manifest = _manifest(spec, shards, [file_record(root, RUN_FILE), *arrays], origin_of_run(root))
    achieved = achieved_association(Dataset(root, manifest))
    report = write_report(
        root,
        manifest,
        version=registered(spec),
        entries=spec.entries,
        recoverability=recoverability,
        read_by=read_by,
        achieved=achieved,
    )
    pairs, strip = thumbnails(Dataset(root, manifest))
    card = write_card(root, manifest, examples=pairs)
    manifest = manifest.model_copy(update={"files": (*manifest.files, report, *card)})
    found = verify_dataset(root, manifest=manifest, workers=spec.config.compute.concurrent_shards)
    if not found.ok:
        raise StorageError(
            f"the finished data set does not verify: {found.problems[0]}",
            where=root.url,
            do=f"give the same command again to make shards {list(found.bad_shards)} anew",
        )
    publish(root, manifest)
    _show(root, manifest, achieved, pairs, strip)


def registered(spec: DatasetSpec) -> ModelVersion | None:
    """The registered model of a data set, if its images come from one."""
    return spec.files.registry.get(spec.model_version) if spec.model_version else None


def _manifest(
    spec: DatasetSpec, shards: list[FileRecord], arrays: list[FileRecord], origin: Origin | None
) -> RootManifest:
    config, model = spec.config, get_model(spec.config.outcomes.model)
    dataset, plain = config.dataset, config.model_dump(mode="json", exclude=set(EXECUTION_SECTIONS))
    return RootManifest(
        name=dataset.name,
        date=dataset.date,
        identity=spec.identity,
        config=plain,
        config_digest=digest_of(plain),
        seed=config.seed,
        n_subjects=dataset.n_subjects,
        shard_size=dataset.shard_size,
        splits=spec.plan.split_counts,
        levels=dataset.association,
        random_effects=model.random_effect_names,
        eta_latents=spec.entries if is_identity(model.omega) else None,  # else η is a mixture of entries
        parameters=model.parameter_names,
        times=config.outcomes.times,
        doses=tuple(Dose(*dose) for dose in config.outcomes.given),
        image=ImageInfo(
            height=spec.image_size,
            width=spec.image_size,
            latent_dim=spec.latent_dim,
            backend=config.generator.backend,
            model=spec.model_version or config.generator.backend,
            version=spec.model_version or "1",
            digest=spec.model_digest,
        ),
        shards=tuple(shards),
        files=tuple(arrays),
        versions={name: package_version(name) for name in PACKAGES},
        licence=dataset.licence,
        citation=CITATION,
        derived_from=origin,
    )


def _show(
    root: Root, manifest: RootManifest, achieved: dict[float, list[AssociationSums]], pairs: bytes, strip: bytes
) -> None:
    """Leave what was made in the Prefect UI: pictures, and designed against achieved association."""
    create_markdown_artifact(
        f"# {manifest.name}\n\n{manifest.n_subjects:,} subjects in `{root.url}`, report in `{root.join(REPORT)}`\n\n"
        f"{picture(strip, 'images')}\n\n{picture(pairs, 'images and outcomes')}",
        key="dataset",
        description=f"{manifest.name}: images and trajectories",
    )
    create_table_artifact(
        association_rows(achieved, manifest), key="association", description="Designed against achieved association"
    )
