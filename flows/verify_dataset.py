"""verify-dataset: hash and read a published data set again; name damaged files and, on request, regenerate them."""

import contextlib
import dataclasses
from shlex import quote

import numpy as np
from prefect import flow
from prefect.artifacts import create_table_artifact

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError, ImageLongitudinalError, StorageError
from image_longitudinal.core.gates import KINDS
from image_longitudinal.core.presets import validate_config
from image_longitudinal.flows.generate_dataset import generate_dataset, specify
from image_longitudinal.models.imaging.backends import find_backend, needs_training
from image_longitudinal.models.nlme.library import get_model, is_loaded
from image_longitudinal.storage.dataset.layout import ROOT_MANIFEST, RUN_FILE, shard_manifest_path
from image_longitudinal.storage.dataset.manifest import RootManifest, is_published, read_root_manifest
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.storage.dataset.run_claim import read_run_claim
from image_longitudinal.storage.dataset.verify import VerificationReport, verify_dataset
from image_longitudinal.storage.io.lease import hold_lease
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root
from image_longitudinal.tasks.engine.parameters import load_trusted
from image_longitudinal.tasks.engine.progress import SHOWN, Progress, in_run, run_logger
from image_longitudinal.tasks.shards.derivation import rederive
from image_longitudinal.tasks.shards.provenance import check_provenance
from image_longitudinal.tasks.workspace import Workspace

SAMPLE = 8  # regenerated subjects: a wrong seed, model or version shows in all of them; hashes find damage


@flow(name="verify-dataset", flow_run_name="verify {output}", persist_result=False)
def verify(
    output: str,
    repair: bool = False,
    workers: int = 2,
    workspace: str = "workspace",
    sample: int = SAMPLE,
    trust: tuple[str, ...] = (),
) -> VerificationReport:
    """Check a published data set.

    Args:
        output: Address of the data set, a local folder or any fsspec URL.
        repair: Regenerate exactly the bad shards from the configuration and the registered model that the data set
            records, then check again.
        workers: Shards checked at a time.
        workspace: Where the registered model is; needed to repair images and to regenerate some.
        sample: Number of random subjects, at least one, that are regenerated from their seeds and compared.
        trust: Code that the data set names and that may run: files of longitudinal models, package.module:factory of
            a custom backend. No other code runs that data name.

    Raises:
        FaultsFoundError: a file is missing, damaged or inconsistent; the log and a table list all problems.
        StorageError: there is no data set, or it cannot be repaired.
    """
    load_trusted(trust)
    root = open_root(output)
    report: VerificationReport | None = None
    try:
        report = _check(root, workers, workspace, sample)
    except StorageError as error:
        if not (repair and is_published(root)):
            raise
        run_logger().error(f"{error}; it is recreated from {RUN_FILE}")
    if report is None or (repair and not report.ok):
        _regenerate(root, report, workspace)
        report = _check(root, workers, workspace, sample)
    report.require_ok(f"regenerate the bad files with: image-longitudinal verify {quote(root.url)} --repair")
    return report


def _regenerate(root: Root, report: VerificationReport | None, workspace: str) -> None:
    """Remove bad files and generate them again; if ``dataset.json`` is damaged (no report) or wrong, the claim is used.

    A repair that would generate another data set is refused before anything is removed.
    """
    manifest = None if report is None or _manifest_is_wrong(report) else read_root_manifest(root)
    record = manifest or read_run_claim(root)  # both have the identity and the configuration
    config, files = validate_config(record.config, where=root.url), Workspace.at(workspace)
    refuse_foreign_code(config)
    model = None
    if needs_training(config.generator.backend):
        model = manifest.image.model if manifest else _model_of(record.identity, config, files, root)
    if manifest is None or not manifest.part_of:
        identity_now = specify(config, files.registry.get(model) if model else None, files).digest
        if identity_now != record.identity:
            raise StorageError(
                "this version of the software would generate another data set, so nothing was changed",
                where=root.url,
                expected=f"identity {record.identity[:12]}",
                got=identity_now[:12],
                do="repair it with the version that generated it, or restore the bad files from a copy",
            )
    with hold_lease(root, run_logger().info):
        if manifest and report:
            _forget(root, manifest, report)
        else:
            root.remove(ROOT_MANIFEST)
    if manifest and report and manifest.part_of:
        raise StorageError(
            f"{len(report.problems)} problems found; a part of a data set cannot be regenerated, only fetched",
            where=root.url,
            do="run the command that fetched it again: intact files are kept",
        )
    # It was published: what failed at a gate had been accepted, and is recorded as accepted again.
    generate_dataset(root.url, config=config, model=model, workspace=workspace, accept=KINDS)


def refuse_foreign_code(config: Config) -> None:
    """ConfigError if generating would run code that the data set names and the user has not named."""
    find_backend(config.generator.backend)
    get_model(config.outcomes.model)
    if not is_loaded(config.outcomes.model):
        file = config.outcomes.model.rpartition(":")[0]
        do = f"if you trust it, put the model file there and give --trust {file}"
        raise ConfigError("the longitudinal model's file is not the one that you named", expected=file, do=do)


def _model_of(identity: str, config: Config, files: Workspace, root: Root) -> str:
    """The registered model with which the configuration gives this identity."""
    for version in files.registry.versions():
        with contextlib.suppress(ImageLongitudinalError):  # a model of another kind or size
            if specify(config, version, files).digest == identity:
                return version.version
    raise StorageError(
        "the root manifest is damaged, and models and software here would generate another data set, so nothing was "
        "changed",
        where=root.url,
        expected=f"a model in {files.root} that gives identity {identity[:12]}",
        do="give the workspace that has it with --workspace, or run the command that generated the data set again",
    )


def _check(root: Root, workers: int, workspace: str, sample: int) -> VerificationReport:
    """Verify all files and regenerate a random sample of the subjects, another one each time; report all problems."""
    logger = run_logger()
    progress = Progress("verify", read_root_manifest(root).plan.n_shards, "shards")
    report = verify_dataset(root, progress=lambda done, total: progress.update(done), workers=workers)
    dataset = open_dataset(root)
    derived, not_derived = check_provenance(root, dataset.manifest)
    report = dataclasses.replace(report, problems=(*report.problems, *derived), not_checked=not_derived)
    ids = dataset.view().ids
    ids = ids[~np.isin(ids // dataset.plan.shard_size, report.bad_shards)]
    chosen = np.sort(np.random.default_rng().choice(ids, min(max(sample, 1), len(ids)), replace=False))
    if len(chosen) and not _manifest_is_wrong(report):
        problems, not_checked = rederive(dataset, chosen, workspace)
        report = dataclasses.replace(
            report,
            problems=(*report.problems, *problems),
            bad_shards=tuple(sorted({*report.bad_shards, *(p.shard for p in problems if p.shard is not None)})),
            regenerated=tuple(chosen.tolist()),
            not_checked="; ".join(filter(None, (not_checked, not_derived))) or None,
        )
    for problem in report.problems:
        logger.error(str(problem), extra={SHOWN: True})
    if report.ok:
        logger.info(str(report), extra={SHOWN: True})
    elif in_run():
        rows = [
            {"file": one.path, "shard": one.shard, "problem": one.what, "expected": one.expected, "got": one.got}
            for one in report.problems
        ]
        description = f"{len(rows)} problems in {report.url}"
        create_table_artifact(rows, key="verification", description=description)
    return report


def _manifest_is_wrong(report: VerificationReport) -> bool:
    return any(problem.path == ROOT_MANIFEST for problem in report.problems)


def _forget(root: Root, manifest: RootManifest, report: VerificationReport) -> None:
    """Remove bad files and the manifests of bad shards, so that neither a run nor a cache takes them for finished."""
    ours = {file.path for file in manifest.files}  # never remove a file that this project did not write
    for index in report.bad_shards:
        ours |= manifest.shard_files(manifest.plan.shard(index))
        root.remove(shard_manifest_path(index))
    for path in ours & {problem.path for problem in report.problems}:
        root.remove(path)
