"""verify-dataset: hash and read a published data set again; name damaged files and, on request, regenerate them."""

import contextlib
import dataclasses

import numpy as np
from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ImageLongitudinalError, StorageError
from image_longitudinal.core.presets import validate_config
from image_longitudinal.flows.generate_dataset import generate_dataset, specify
from image_longitudinal.models.imaging.backends import needs_training
from image_longitudinal.storage.dataset.layout import ROOT_MANIFEST, RUN_FILE, shard_manifest_path
from image_longitudinal.storage.dataset.manifest import RootManifest, is_published, read_root_manifest
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.storage.dataset.run_claim import read_run_claim
from image_longitudinal.storage.dataset.verify import VerificationReport, verify_dataset
from image_longitudinal.storage.io.lease import hold_lease
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.shards.derivation import rederive
from image_longitudinal.tasks.workspace import Workspace

SAMPLE = 8  # regenerated subjects: a wrong seed, model or version shows in all of them; hashes find damage


@flow(name="verify-dataset", flow_run_name="verify {output}", persist_result=False)
def verify(
    output: str, repair: bool = False, workers: int = 2, workspace: str = "workspace", sample: int = SAMPLE
) -> VerificationReport:
    """Check a published data set.

    Args:
        output: Address of the data set, a local folder or any fsspec URL.
        repair: Regenerate exactly the bad shards from the configuration and the registered model that the data set
            records, then check again.
        workers: Shards checked at a time.
        workspace: Where the registered model is; needed to repair images and to regenerate some.
        sample: Number of random subjects that are regenerated from their seeds and compared.

    Raises:
        StorageError: a file is missing, damaged or inconsistent; the log and a table list all problems.
    """
    root = open_root(output)
    try:
        report = _check(root, workers, workspace, sample)
    except StorageError as error:
        if not (repair and is_published(root)):
            raise
        return _restore(root, error, workers, workspace, sample)
    if not report.ok and repair:
        manifest = read_root_manifest(root)
        config = validate_config(manifest.config, where=root.url)
        model = manifest.image.model if needs_training(config.generator.backend) else None
        if not manifest.part_of:
            _check_is_reproducible(root, manifest.identity, config, model, workspace)
        with hold_lease(root, get_run_logger().info):
            _forget(root, manifest, report)
        if manifest.part_of:
            raise StorageError(
                f"{len(report.problems)} problems found; a part of a data set cannot be regenerated, only fetched",
                where=root.url,
                do="run the command that fetched it again: intact files are kept",
            )
        generate_dataset(root.url, config=config, model=model, workspace=workspace)
        report = _check(root, workers, workspace, sample)
    if not report.ok:
        raise StorageError(
            f"{len(report.problems)} problems found; the first: {report.problems[0]}",
            where=report.url,
            do=f"regenerate the bad files with: image-longitudinal verify {root.url} --repair",
        )
    return report


def _restore(root: Root, damage: StorageError, workers: int, workspace: str, sample: int) -> VerificationReport:
    """Write a damaged ``dataset.json`` again, from the configuration that the run recorded when it started."""
    get_run_logger().error(f"{damage}; it is recreated from {RUN_FILE}")
    claim = read_run_claim(root)
    identity = claim.identity
    config = validate_config(claim.config, where=root.join(RUN_FILE))
    model = _model_of(identity, config, workspace, root)
    _check_is_reproducible(root, identity, config, model, workspace)
    with hold_lease(root, get_run_logger().info):
        root.remove(ROOT_MANIFEST)
    generate_dataset(root.url, config=config, model=model, workspace=workspace)
    return _check(root, workers, workspace, sample)


def _check_is_reproducible(root: Root, identity: str, config: Config, model: str | None, workspace: str) -> None:
    """Refuse a repair that would generate another data set, before anything is removed."""
    files = Workspace.at(workspace)
    identity_now = specify(config, files.registry.get(model) if model else None, files).digest
    if identity_now != identity:
        raise StorageError(
            "this version of the software would generate another data set, so nothing was changed",
            where=root.url,
            expected=f"identity {identity[:12]}",
            got=identity_now[:12],
            do="repair it with the version that generated it, or restore the bad files from a copy",
        )


def _model_of(identity: str, config: Config, workspace: str, root: Root) -> str | None:
    """The registered model with which the configuration gives this identity; None if the data set needs none."""
    if not needs_training(config.generator.backend):
        return None
    files = Workspace.at(workspace)
    for version in files.registry.versions():
        with contextlib.suppress(ImageLongitudinalError):  # a model of another kind or size
            if specify(config, version, files).digest == identity:
                return version.version
    raise StorageError(
        "the root manifest is damaged, and none of the models here belongs to this data set",
        where=root.url,
        expected=f"a model in {workspace} that gives identity {identity[:12]}",
        do="give the workspace that has it with --workspace, or run the command that generated the data set again",
    )


def _check(root: Root, workers: int, workspace: str, sample: int) -> VerificationReport:
    logger = get_run_logger()
    progress = Progress("verify", read_root_manifest(root).plan.n_shards, "shards")
    report = verify_dataset(root, progress=lambda done, total: progress.update(done), workers=workers)
    report = _regenerate_sample(root, report, workspace, sample)
    for problem in report.problems:
        logger.error(str(problem))
    if report.ok:
        logger.info(str(report))
    else:
        create_table_artifact(
            [
                {"file": problem.path, "shard": problem.shard, "problem": problem.what, "expected": problem.expected,
                 "got": problem.got}
                for problem in report.problems
            ],
            key="verification",
            description=f"{len(report.problems)} problems in {report.url}",
        )  # fmt: skip
    return report


def _regenerate_sample(root: Root, report: VerificationReport, workspace: str, sample: int) -> VerificationReport:
    """Add to the report the problems found by regenerating a random sample of subjects, a new one each time."""
    dataset = open_dataset(root)
    ids = dataset.view().ids
    ids = ids[~np.isin(ids // dataset.plan.shard_size, report.bad_shards)]
    chosen = np.sort(np.random.default_rng().choice(ids, min(sample, len(ids)), replace=False))
    if not len(chosen):
        return report
    problems, remark = rederive(dataset, chosen, workspace)
    return dataclasses.replace(
        report,
        problems=(*report.problems, *problems),
        bad_shards=tuple(sorted({*report.bad_shards, *(p.shard for p in problems if p.shard is not None)})),
        regenerated=tuple(chosen.tolist()),
        not_checked=remark,
    )


def _forget(root: Root, manifest: RootManifest, report: VerificationReport) -> None:
    """Remove bad files and the manifests of bad shards, so that neither a run nor a cache takes them for finished."""
    ours = {file.path for file in manifest.files}  # never remove a file that this project did not write
    for index in report.bad_shards:
        ours |= manifest.shard_files(manifest.plan.shard(index))
        root.remove(shard_manifest_path(index))
    for path in ours & {problem.path for problem in report.problems}:
        root.remove(path)
