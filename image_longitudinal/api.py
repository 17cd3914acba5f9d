"""The functions of ``import image_longitudinal`` that run the pipeline: each forwards to a flow, a task or a model.

They need the extra ``pipeline``. :func:`generate` and :func:`evaluate` are runs on the Prefect server that
PREFECT_API_URL names, else on a temporary one. The others are runs only if PREFECT_API_URL names a server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_longitudinal.core.errors import naming_missing_extra
from image_longitudinal.core.gates import accepted_kinds
from image_longitudinal.core.presets import load_config
from image_longitudinal.core.secrets import hidden
from image_longitudinal.tasks.engine.prefect_setup import configure_prefect, run_or_call

if TYPE_CHECKING:
    from image_longitudinal.core.config import Config
    from image_longitudinal.flows.evaluate_dataset import EvaluationResult
    from image_longitudinal.models.imaging.interface import ImageModel
    from image_longitudinal.tasks.evaluation.tables import Table
    from image_longitudinal.tasks.population.comparison import Comparison
    from image_longitudinal.tasks.population.covariates import SearchSummary
    from image_longitudinal.tasks.population.study import SimulatedStudy
    from image_longitudinal.tasks.population.summary import FitSummary


def generate(
    output: str | Path,
    images: str | Path | None = None,
    *,
    preset: str = "demo",
    overrides: Sequence[str] = (),
    config: Config | None = None,
    model: str | None = None,
    workspace: str | Path = "workspace",
    reuse: str | None = None,
    refresh: bool = False,
    accept: Sequence[str] = (),
) -> str:
    """Generate and publish a data set; train the image models first if no registered one fits.

    A run that was stopped continues; a finished one returns at once. See :mod:`flows.generate_dataset`.

    Args:
        output: a local folder or any fsspec URL.
        images: folder, archive or URL of scans to train on; procedural phantom images without one.
        preset: configuration to start from: demo, scans, scans-128, small, paper, trial, observational or sites.
        overrides: ``section.key=value`` texts over the preset's values.
        config: a whole configuration instead of preset and overrides.
        model: registered model (version, alias or ``pretrained``) to use instead of training one.
        workspace: local folder of prepared images, checkpoints and models.
        reuse: published data set whose images are shared.
        refresh: recompute everything, cached or not.
        accept: gates that may fail, by kind: latents, recoverability, fidelity, copies. What failed stays on record.

    Returns:
        The address of the data set, for :func:`open_dataset`.

    Raises:
        ConfigError: the configuration is not valid.
        RefusedByGateError: model or images are not good enough.
        StorageError: the output holds something else, or cannot be written.

    Example:
        >>> il.generate("datasets/small", overrides=["generator.backend=phantom", "dataset.n_subjects=64"])
        '...datasets/small'
    """
    with _importing_flows():
        from image_longitudinal.flows.generate_dataset import generate_dataset
    return generate_dataset(
        hidden(str(output)), hidden(str(images)) if images else None, model=model, workspace=str(workspace),
        config=config or load_config(preset, overrides=overrides), reuse=reuse and hidden(reuse), refresh=refresh,
        accept=accepted_kinds(accept),
    )  # fmt: skip


def evaluate(
    dataset: str | Path,
    output: str | Path | None = None,
    *,
    preset: str = "demo",
    overrides: Sequence[str] = (),
    config: Config | None = None,
    workspace: str | Path = "workspace",
    workers: int = 2,
    verify: bool = True,
    overwrite: bool = False,
    trust: Sequence[str] = (),
) -> EvaluationResult:
    """Measure how well the images of a data set predict its outcomes, compared with the design.

    Args:
        dataset: a local folder or any fsspec URL.
        output: local folder for tables, figures and report; ``evaluations/NAME-IDENTITY`` by default.
        preset, overrides, config: as for :func:`generate`; the section ``evaluation`` is used.
        workspace: local folder of registered models and finished stages.
        workers: threads; the result does not depend on their number.
        verify: verify every byte of the data set first.
        overwrite: replace another evaluation in the output.
        trust: files of longitudinal models that the data set names and that may run.

    Returns:
        The content of ``evaluation.json`` as records, and the folder.

    Raises:
        StorageError: the output holds another evaluation or other files, or the data set does not verify.

    Example:
        >>> result = il.evaluate("datasets/demo", overrides=["evaluation.resnet.steps=0"])
        >>> level = result.evaluation.levels[0]
        >>> level.level, 0.8 < level.effects["informed"].r2.value <= 1
        (1.0, True)
    """
    with _importing_flows():
        from image_longitudinal.flows.evaluate_dataset import evaluate_dataset
    return evaluate_dataset(
        hidden(str(dataset)), str(output) if output else None,
        config=config or load_config(preset, overrides=overrides), workspace=str(workspace), workers=workers,
        verify=verify, overwrite=overwrite, trust=tuple(trust),
    )  # fmt: skip


def evaluate_study(dataset: str | Path, *, bootstrap: int = 1000) -> list[Table]:
    """Estimate what a study design holds: mean effects, individual effects from images, and sites; beside the truth.

    Args:
        dataset: a local folder or any fsspec URL, of a data set with arms or sites.
        bootstrap: resamples behind each interval.

    Returns:
        The tables, one row per estimator.

    Raises:
        StorageError: it has neither arms nor sites, too few subjects, or irregular visits.

    Example:
        >>> url = il.generate("datasets/small-trial", preset="trial", overrides=["dataset.n_subjects=1000"])
        >>> [table.name for table in il.evaluate_study(url, bootstrap=100)]
        [...]
    """
    with naming_missing_extra():
        from image_longitudinal.storage.dataset.reader import open_dataset
        from image_longitudinal.tasks.evaluation.study import evaluate_study as evaluated
    return evaluated(open_dataset(dataset), replicates=bootstrap)


def simulate_study(
    preset: str = "trial", *, overrides: Sequence[str] = (), config: Config | None = None
) -> SimulatedStudy:
    """Simulate the tables of a study design in memory, without images.

    They are those of :func:`generate` with the same configuration, except that ``dataset.eta_dims`` auto means the
    first latent dimensions.

    Args:
        preset, overrides, config: as for :func:`generate`.

    Returns:
        Tables of pyarrow; those of ``truth/`` are None without arms.

    Raises:
        ConfigError: a design that cannot be had.

    Example:
        >>> study = il.simulate_study("trial", overrides=["dataset.n_subjects=1000"])
        >>> study.subjects.num_rows, study.effects.num_rows  # a row of each subject under each of two arms
        (1000, 2000)
    """
    with naming_missing_extra():
        from image_longitudinal.tasks.population.study import simulate_tables
    return simulate_tables(config or load_config(preset, overrides=overrides))


def score(
    dataset: str | Path,
    predictions: str | Path,
    baselines: str | Path | None = None,
    *,
    bootstrap: int = 1000,
    workers: int = 2,
) -> list[Table]:
    """Score predictions of random effects, outcomes, individual effects or policies for a data set's test subjects.

    Args:
        dataset: a local folder or any fsspec URL.
        predictions: Parquet file; docs/howto/scoring.md describes its columns.
        baselines: folder ``predictions`` of an evaluation, whose predictors are scored too; by default that of
            ``evaluate`` without an output, where it exists.
        bootstrap: resamples behind each interval.
        workers: threads.

    Returns:
        The tables, one row per predictor.

    Raises:
        StorageError: the file is malformed, or the data set has no test subjects.

    Example:
        >>> best = data.view("test").linked_eta[:] * 0.5**0.5
        >>> path = data.write_predictions("mine.parquet", used_eta={0.5: best}, overwrite=True)
        >>> tables = il.score("datasets/demo", path, bootstrap=100)
        >>> tables[0].columns[:2]
        ('ρ²', 'source')
    """
    with naming_missing_extra():
        from image_longitudinal.storage.dataset.reader import open_dataset
        from image_longitudinal.tasks.evaluation.run import default_output
        from image_longitudinal.tasks.evaluation.submissions import score_predictions
    opened = open_dataset(dataset)
    folder = Path(baselines) if baselines else default_output(opened.manifest) / "predictions"
    known = folder if baselines or folder.is_dir() else None
    return score_predictions(opened, Path(predictions), known, replicates=bootstrap, workers=workers)


def simulate(
    output: str | Path,
    model: str = "depot-central-mm",
    *,
    truth: str | Path | None = None,
    workers: int = 2,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Simulate a trial from a population model and write its table, in NM-TRAN's columns.

    Args:
        output: CSV or Parquet file to write.
        model: name of the population model.
        truth: file for each subject's random effects and parameters.
        workers: threads; the result does not depend on their number.
        overwrite: replace files that exist.
        options: fields of :class:`tasks.population.options.SimulateOptions`, such as ``subjects=200, seed=2``.

    Returns:
        The path of the table.

    Raises:
        ConfigError: an unknown model, or impossible options.
        StorageError: a file exists already.

    Example:
        >>> il.simulate("trial.csv", "one-compartment", subjects=40, seed=2, overwrite=True)
        PosixPath('trial.csv')
    """
    with _importing_flows(server=False):
        from image_longitudinal.flows.simulate_table import simulate_table
        from image_longitudinal.tasks.population.options import SimulateOptions, options_of
    chosen = options_of(SimulateOptions, {"model": model, **options})
    return Path(run_or_call(simulate_table, chosen, str(output), str(truth) if truth else None, workers, overwrite))


def fit(
    table: str | Path,
    output: str | Path,
    model: str = "depot-central-mm",
    *,
    workers: int = 2,
    overwrite: bool = False,
    **options: Any,
) -> FitSummary:
    """Fit a population model to a table or to one level of a data set; write results and a report.

    A fit that the folder holds already is not repeated.

    Args:
        table: CSV or Parquet file in NM-TRAN's columns, or the address of a data set.
        output: folder for results and report.
        model: name of the population model.
        workers: threads; the result does not depend on their number.
        overwrite: replace another fit in the folder.
        options: fields of :class:`tasks.population.options.FitOptions`, such as ``method="imp", level=0.5``. With
            ``images="scans/"`` also what images explain of the random effects.

    Returns:
        The content of ``fit.json``: estimates, standard errors, objective, convergence.

    Raises:
        ConfigError: an unknown model or method, or impossible options.
        StorageError: the folder holds another fit or other files.

    Example:
        >>> table = il.simulate("trial.csv", "one-compartment", subjects=40, seed=2, overwrite=True)
        >>> found = il.fit(table, "trial-fit", "one-compartment", omega="diagonal", overwrite=True)
        >>> found.converged, found.estimates["cl"].lower < found.estimates["cl"].estimate < found.estimates["cl"].upper
        (True, True)
    """
    with _importing_flows(server=False):
        from image_longitudinal.flows.fit_table import fit_table
        from image_longitudinal.tasks.population.options import FitOptions, options_of
    chosen = options_of(FitOptions, {"table": hidden(str(table)), "model": model, **options})
    return run_or_call(fit_table, chosen, str(output), workers, overwrite)


def predict(
    fit: str | Path,
    images: str | Path,
    output: str | Path,
    *,
    table: str | Path | None = None,
    workers: int = 2,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Predict random effects and parameters of new subjects by a fit with images, and write a table.

    It has a row for each subject and source: ``image``, and with a table of first visits ``visits`` (without images)
    and ``image+visits``.

    Args:
        fit: folder of a fit with images.
        images: folder of pictures, Zarr array or data set, as for :func:`fit`.
        output: CSV or Parquet file to write.
        table: first visits, as for :func:`fit`.
        workers: threads; the result does not depend on their number.
        overwrite: replace the file if it exists.
        options: fields of :class:`tasks.population.options.PredictOptions`, such as ``visits=2``.

    Returns:
        The path of the table.

    Raises:
        ConfigError: the folder holds no fit with images, or an unusable table.
        StorageError: images and ids that do not fit together, or the file exists.

    Example:
        >>> import os, numpy as np, pandas as pd
        >>> from PIL import Image
        >>> table = il.simulate("trial.csv", "one-compartment", subjects=40, seed=2, overwrite=True)
        >>> os.makedirs("scans", exist_ok=True)
        >>> for subject in pd.read_csv(table)["ID"].unique():
        ...     picture = np.random.default_rng(subject).integers(0, 255, (16, 16), dtype=np.uint8)
        ...     Image.fromarray(picture).save(f"scans/{subject}.png")
        >>> found = il.fit(table, "image-fit", "one-compartment", images="scans", omega="diagonal", overwrite=True)
        >>> found.images.shares["eta_cl"].low <= 0.2  # pictures of noise
        True
        >>> il.predict("image-fit", "scans", "by-image.csv", overwrite=True)
        PosixPath('by-image.csv')
    """
    with naming_missing_extra():
        from image_longitudinal.core.outputs import check_new_file
        from image_longitudinal.tasks.population.options import PredictOptions, options_of
        from image_longitudinal.tasks.population.prediction import predict_effects
    check_new_file(Path(output), overwrite)
    given = {"fit": str(fit), "images": hidden(str(images)), "table": str(table) if table else None, **options}
    return Path(predict_effects(options_of(PredictOptions, given), str(output), workers))


def search_covariates(
    table: str | Path,
    output: str | Path,
    model: str,
    candidates: Sequence[str],
    *,
    workers: int = 2,
    overwrite: bool = False,
    **options: Any,
) -> SearchSummary:
    """Search relations of a model's parameters with covariates step by step; write the steps and the model found.

    Args:
        table: CSV or Parquet file in NM-TRAN's columns, or the address of a data set.
        output: folder for ``search.json``, ``report.html`` and ``model.py``.
        model: name of the population model.
        candidates: ``PARAMETERS:COVARIATES:KINDS``, such as ``cl,v:weight:power``.
        workers: fits at a time; the result does not depend on their number.
        overwrite: replace an earlier search in the folder.
        options: fields of :class:`tasks.population.options.CovariateOptions`, such as ``forward=0.01``.

    Returns:
        The content of ``search.json``. Its p-values are not corrected for the search.

    Raises:
        ConfigError: an unknown model, impossible options or candidates.
        StorageError: the folder holds another result or other files.

    Example:
        >>> import numpy as np, pandas as pd
        >>> table = pd.read_csv(il.simulate("trial.csv", "one-compartment", subjects=40, seed=2, overwrite=True))
        >>> table["WT"] = 70 + table["ID"] % 20
        >>> table.to_csv("with-weight.csv", index=False)
        >>> candidates = ["cl:WT:power"]
        >>> found = il.search_covariates("with-weight.csv", "search", "one-compartment", candidates, overwrite=True)
        >>> len(found.steps) >= 1
        True
    """
    with _importing_flows(server=False):
        from image_longitudinal.flows.search_covariates import search_covariates as searched
        from image_longitudinal.tasks.population.options import CovariateOptions, options_of
    given = {"table": hidden(str(table)), "model": model, "candidates": tuple(candidates), **options}
    return run_or_call(searched, options_of(CovariateOptions, given), str(output), workers, overwrite)


def compare_fits(folders: Sequence[str | Path]) -> Comparison:
    """Compare fits of the same table: objective, AIC, BIC, and likelihood ratio tests against the first folder's fit.

    Raises:
        ConfigError: fewer than two folders, one without a fit, or fits of different data.

    Example:
        >>> table = il.simulate("trial.csv", "one-compartment", subjects=40, seed=2, overwrite=True)
        >>> for omega in ("diagonal", "full"):
        ...     found = il.fit(table, f"fit-{omega}", "one-compartment", omega=omega, overwrite=True)
        >>> sorted(one.fit for one in il.compare_fits(["fit-diagonal", "fit-full"]).fits)
        ['fit-diagonal', 'fit-full']
    """
    with naming_missing_extra():
        from image_longitudinal.tasks.population.comparison import compare_fits as compared
    return compared([str(folder) for folder in folders])


def load_model(name: str = "pretrained", *, workspace: str | Path = "workspace", device: str = "auto") -> ImageModel:
    """Load a registered image model: ``model.generate(latents, seeds)`` gives images (B, S, S) uint8.

    Latents are float32 (B, D) with D = ``model.latent_dim``, drawn from N(0, I); seeds are int64 (B,).

    Args:
        name: version, alias, or ``pretrained``, the small model that is bundled.
        workspace: local folder with the registry.
        device: auto, cpu, cuda, cuda:1, ...

    Raises:
        ModelError: no such model, or its files are missing or altered.

    Example:
        >>> import numpy as np
        >>> model = il.load_model("pretrained", device="cpu")
        >>> latents = np.random.default_rng(0).standard_normal((2, model.latent_dim)).astype(np.float32)
        >>> model.generate(latents, np.array([1, 2])).shape
        (2, 64, 64)
    """
    with naming_missing_extra():
        from image_longitudinal.core.config import GeneratorConfig
        from image_longitudinal.models.imaging.backends import load_image_model
        from image_longitudinal.tasks.workspace import Workspace
    version = Workspace.at(workspace).model(name)
    return load_image_model(GeneratorConfig(backend=version.metadata.backend), version, device)


@contextmanager
def _importing_flows(server: bool = True) -> Iterator[None]:
    configure_prefect()
    with naming_missing_extra():
        from image_longitudinal.deployments.temporary_server import server_for_this_process

        started = server_for_this_process() if server else None
        yield
        if started:
            started.wait()
