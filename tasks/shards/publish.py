"""The last stage: report, card, verification, and the root manifest that publishes the data set."""

from collections.abc import Sequence
from importlib.metadata import version as package_version

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from image_longitudinal.core import progress
from image_longitudinal.core.config import ProbeConfig
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.gates import Gate
from image_longitudinal.models.design.association import is_identity
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.storage.dataset.card import CITATION, write_card
from image_longitudinal.storage.dataset.card_quality import readable_rows
from image_longitudinal.storage.dataset.layout import CARD, CARD_PICTURE, CROISSANT, RUN_FILE
from image_longitudinal.storage.dataset.manifest import ImageInfo, RootManifest, write_root_manifest
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.run_claim import read_run_claim
from image_longitudinal.storage.dataset.tables import PlannedDose
from image_longitudinal.storage.dataset.verify import Problem, check_file, verify_dataset
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import FileRecord, Root, file_record
from image_longitudinal.tasks.engine.assets import record_product
from image_longitudinal.tasks.products import dataset_product
from image_longitudinal.tasks.reports import dataset_report
from image_longitudinal.tasks.reports.pictures import picture
from image_longitudinal.tasks.reports.study_rows import study_rows
from image_longitudinal.tasks.shards.readability import (
    Recoverability,
    finished_recoverability,
    measured_recoverability,
    readability,
)
from image_longitudinal.tasks.shards.specs import DatasetSpec, Execution, ImageSpec
from image_longitudinal.tasks.shards.study import study_info

PACKAGES = ("image-longitudinal", "diffusers", "numpy", "pyarrow", "torch", "zarr")


@task(name="measure-recoverability", task_run_name="recover z from images", persist_result=False)
def measure_images(images: ImageSpec, probe: ProbeConfig, execution: Execution) -> Recoverability:
    """See :func:`tasks.shards.readability.measured_recoverability`."""
    return measured_recoverability(images, probe, execution)


@task(name="read-finished-images", task_run_name="read z from finished images", persist_result=False)
def read_images(
    output: str, spec: DatasetSpec, execution: Execution, shards: list[FileRecord], arrays: list[FileRecord]
) -> Recoverability:
    """What the finished images say of z: :func:`tasks.shards.readability.finished_recoverability`."""
    root = open_root(output)
    finished = Dataset(root, unpublished_manifest(root, spec, shards, arrays))
    return finished_recoverability(finished, spec.images, spec.probe, execution)


@task(name="publish-dataset", task_run_name="publish {output}", persist_result=False)
def publish_dataset(
    output: str,
    spec: DatasetSpec,
    execution: Execution,
    shards: list[FileRecord],
    arrays: list[FileRecord],
    recoverability: Recoverability,
    gates: Sequence[Gate] = (),
) -> None:
    """Verify every file, write report and card from what was verified, publish, and show the data set in the UI.

    ``recoverability``: what its images say of z; ``gates``: what was wanted of model and data set, all open.

    Raises:
        StorageError: verification found a problem; nothing is published.
    """
    root = open_root(output)
    progress.report(progress.Step("write report and card"))
    manifest = unpublished_manifest(root, spec, shards, [file_record(root, RUN_FILE), *arrays]).model_copy(
        update={"gates": tuple(gates), "readability": readability(recoverability, spec.outcomes)}
    )
    described = (dataset_report.REPORT, CARD, CROISSANT, CARD_PICTURE)  # written below, from verified files
    workers = execution.compute.concurrent_shards
    counter = progress.Counter("verify", manifest.plan.n_shards, "shards")
    found = verify_dataset(
        root, manifest=manifest, workers=workers, ignored=described, progress=lambda done, _: counter.update(done)
    )
    _refuse(root, found.problems, found.bad_shards)
    achieved = dataset_report.achieved_association(Dataset(root, manifest))
    study = study_rows(Dataset(root, manifest), spec.outcomes)
    report = dataset_report.write_report(
        root, manifest, version=execution.version(), eta_dims=spec.outcomes.eta_dims,
        recoverability=recoverability.r_squared, achieved=achieved, shown=spec.report, study=study,
    )  # fmt: skip
    pairs, strip = dataset_report.thumbnails(Dataset(root, manifest))
    card = write_card(root, manifest, examples=pairs)
    _refuse(root, [problem for file in (report, *card) for problem in check_file(root, file, None)])
    manifest = manifest.model_copy(update={"files": (*manifest.files, report, *card)})
    write_root_manifest(root, manifest)
    page = root.join(dataset_report.REPORT)
    create_markdown_artifact(
        f"# {manifest.name}\n\n{manifest.n_subjects:,} subjects in `{root.url}`, report in `{page}`\n\n"
        f"{picture(strip, 'images')}\n\n{picture(pairs, 'images and outcomes')}",
        key="dataset",
        description=f"{manifest.name}: images and trajectories",
    )
    create_table_artifact(
        readable_rows(manifest), key="readable",
        description="Share of each random effect's variance that is read from finished images, beside the designed one",
    )  # fmt: skip
    rows = dataset_report.association_rows(achieved, manifest)
    create_table_artifact(rows, key="association", description="Check of the draw: effects against η, not images")
    if study:
        shown = [vars(row) | {"inside": row.inside} for row in study]
        create_table_artifact(shown, key="study", description="Designed against achieved numbers of the study")
    record_product(dataset_product(manifest, root.url, execution.workspace))


def _refuse(root: Root, problems: Sequence[Problem], shards: Sequence[int] = ()) -> None:
    if problems:
        what = f"the finished data set does not verify: {problems[0]}"
        do = "run the same command again" + (f", which makes shards {list(shards)} again" if shards else "")
        raise StorageError(what, where=root.url, do=do)


def unpublished_manifest(
    root: Root, spec: DatasetSpec, shards: list[FileRecord], files: list[FileRecord]
) -> RootManifest:
    """What a data set is, before anything was measured of it; ``files``: those outside the shards."""
    images, outcomes = spec.images, spec.outcomes
    model, claim = get_model(outcomes.outcomes.model), read_run_claim(root)
    return RootManifest(
        name=spec.name, date=spec.date, identity=claim.identity,
        config=claim.config, config_digest=digest_of(claim.config), seed=images.seed,
        n_subjects=spec.plan.n_subjects, shard_size=spec.plan.shard_size,
        splits=spec.plan.split_counts, levels=outcomes.association, random_effects=model.random_effect_names,
        eta_latents=outcomes.eta_dims if is_identity(model.omega) else None,  # else each η mixes several dimensions
        parameters=model.parameter_names, times=outcomes.outcomes.times,
        doses=tuple(PlannedDose(*dose) for dose in outcomes.outcomes.given),
        image=ImageInfo(
            height=images.image_size, width=images.image_size, latent_dim=images.latent_dim, backend=spec.backend,
            model=spec.model, version=spec.model if spec.model != spec.backend else "1", digest=images.generator,
        ),
        shards=tuple(shards), files=tuple(files), versions={name: package_version(name) for name in PACKAGES},
        licence=outcomes.licence, citation=CITATION, derived_from=claim.derived_from, study=study_info(outcomes),
    )  # fmt: skip
