"""verify-dataset: re-hash and re-read a published data set; name, and on request make anew, what is not as written."""

from __future__ import annotations

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

SAMPLE = 8  # subjects made again: a wrong seed, model or version shows in the first, damage is found by hashes


@flow(name="verify-dataset", flow_run_name="verify {output}", persist_result=False)
def verify(
    output: str, repair: bool = False, workers: int = 2, workspace: str = "workspace", sample: int = SAMPLE
) -> VerificationReport:
    """Check a published data set.

    Args:
        output: Address of the data set, a local folder or any fsspec URL.
        repair: Make exactly the bad shards anew, from the configuration and the registered model recorded in the data
            set, then check again.
        workers: Shards checked at a time.
        workspace: Where the registered model lies; needed to repair images and to make some again.
        sample: Subjects chosen at random that are made again from their seeds and compared.

    Raises:
        StorageError: a file is missing, damaged or does not fit the others; the log and a table name each.
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
        if not manifest.part_of:  # which is fetched
            _check_can_be_made(root, manifest.identity, config, model, workspace)
        with hold_lease(root, get_run_logger().info):
            _forget(root, manifest, report)
        if manifest.part_of:
            raise StorageError(
                f"{len(report.problems)} problems found, and a part of a data set is not made anew but fetched",
                where=root.url,
                do="give the command that fetched it again: what is right is kept",
            )
        generate_dataset(root.url, config=config, model=model, workspace=workspace)
        report = _check(root, workers, workspace, sample)
    if not report.ok:
        raise StorageError(
            f"{len(report.problems)} problems found; the first: {report.problems[0]}",
            where=report.url,
            do=f"make them anew with: image-longitudinal verify {root.url} --repair",
        )
    return report


def _restore(root: Root, damage: StorageError, workers: int, workspace: str, sample: int) -> VerificationReport:
    """Write a damaged ``dataset.json`` anew: the mark of the run holds the configuration that it was made from."""
    get_run_logger().error(f"{damage}; it is written anew from {RUN_FILE}")
    claim = read_run_claim(root)
    identity = claim.identity
    config = validate_config(claim.config, where=root.join(RUN_FILE))
    model = _model_of(identity, config, workspace, root)
    _check_can_be_made(root, identity, config, model, workspace)
    with hold_lease(root, get_run_logger().info):
        root.remove(ROOT_MANIFEST)
    generate_dataset(root.url, config=config, model=model, workspace=workspace)
    return _check(root, workers, workspace, sample)


def _check_can_be_made(root: Root, identity: str, config: Config, model: str | None, workspace: str) -> None:
    """Refuse a repair, before anything is removed, where it would not make this data set anew but another."""
    files = Workspace.at(workspace)
    would_be = specify(config, files.registry.get(model) if model else None, files).identity
    if would_be != identity:
        raise StorageError(
            "this version of the software would make another data set from its configuration, so nothing was touched",
            where=root.url,
            expected=f"identity {identity[:12]}",
            got=would_be[:12],
            do="repair it with the version that made it, or bring the bad files back from a copy",
        )


def _model_of(identity: str, config: Config, workspace: str, root: Root) -> str | None:
    """The registered model with which the configuration gives the data set of this identity; None if it needs none."""
    if not needs_training(config.generator.backend):
        return None
    files = Workspace.at(workspace)
    for version in files.registry.versions():
        with contextlib.suppress(ImageLongitudinalError):  # of another kind or size: not the one
            if specify(config, version, files).identity == identity:
                return version.version
    raise StorageError(
        "the root manifest is damaged, and none of the models here made this data set",
        where=root.url,
        expected=f"a model in {workspace} that gives identity {identity[:12]}",
        do="name the workspace that has it: --workspace, or give the command that made the data set again",
    )


def _check(root: Root, workers: int, workspace: str, sample: int) -> VerificationReport:
    logger = get_run_logger()
    progress = Progress("verify", read_root_manifest(root).plan.n_shards, "shards")
    report = verify_dataset(root, progress=lambda done, total: progress.update(done), workers=workers)
    report = _make_again(root, report, workspace, sample)
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


def _make_again(root: Root, report: VerificationReport, workspace: str, sample: int) -> VerificationReport:
    """The report with what making a random sample of the subjects again adds to it: other ones each time."""
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
    """Remove the manifests of bad shards and all bad files, so that nothing, no cache either, takes them for done."""
    made = {file.path for file in manifest.files}  # never a file that this project did not write
    for index in report.bad_shards:
        made |= manifest.shard_files(manifest.plan.shard(index))
        root.remove(shard_manifest_path(index))
    for path in made & {problem.path for problem in report.problems}:
        root.remove(path)
