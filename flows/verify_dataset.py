"""verify-dataset: re-hash and re-read a published data set; name, and on request make anew, what is not as written."""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact

from core.errors import StorageError
from core.presets import validate_config
from flows.generate_dataset import generate_dataset
from models.backends import needs_training
from storage.filesystem import Root, open_root
from storage.layout import shard_manifest_path
from storage.lease import hold_lease
from storage.manifest import RootManifest, read_root_manifest
from storage.verify import VerificationReport, verify_dataset
from tasks.progress import Progress


@flow(name="verify-dataset", flow_run_name="verify {output}", persist_result=False)
def verify(output: str, repair: bool = False, workers: int = 2, workspace: str = "workspace") -> VerificationReport:
    """Check a published data set.

    Args:
        output: Address of the data set, a local folder or any fsspec URL.
        repair: Make exactly the bad shards anew, from the configuration and the registered model recorded in the data
            set, then check again.
        workers: Shards checked at a time.
        workspace: Where the registered model lies; only needed for a repair.

    Raises:
        StorageError: a file is missing, damaged or does not fit the others; the log and a table name each.
    """
    root = open_root(output)
    report = _check(root, workers)
    if not report.ok and repair:
        manifest = read_root_manifest(root)
        with hold_lease(root, get_run_logger().info):
            _forget(root, manifest, report)
        if manifest.part_of:
            raise StorageError(
                f"{len(report.problems)} problems found, and a part of a data set is not made anew but fetched",
                where=root.url,
                do="give the command that fetched it again: what is right is kept",
            )
        config = validate_config(manifest.config, where=root.url)
        model = manifest.image.model if needs_training(config.generator.backend) else None
        generate_dataset(root.url, config=config, model=model, workspace=workspace)
        report = _check(root, workers)
    if not report.ok:
        raise StorageError(
            f"{len(report.problems)} problems found; the first: {report.problems[0]}",
            where=report.url,
            do=f"make them anew with: image-longitudinal verify {root.url} --repair",
        )
    return report


def _check(root: Root, workers: int) -> VerificationReport:
    logger = get_run_logger()
    progress = Progress("verify", read_root_manifest(root).plan.n_shards, "shards")
    report = verify_dataset(root, progress=lambda done, total: progress.update(done), workers=workers)
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


def _forget(root: Root, manifest: RootManifest, report: VerificationReport) -> None:
    """Remove the manifests of bad shards and bad files beside them, so that nothing takes them for done."""
    for index in report.bad_shards:
        root.remove(shard_manifest_path(index))
    made = {file.path for file in manifest.files}  # never a file that this project did not write
    for path in made & {problem.path for problem in report.problems}:
        root.remove(path)
