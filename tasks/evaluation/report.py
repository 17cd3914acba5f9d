"""What an evaluation writes for people: tables in three formats, figures, predictions, and one page with all of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from pydantic import ValidationError

from image_longitudinal.core.config import EvaluationConfig
from image_longitudinal.core.files import write_atomically
from image_longitudinal.core.outputs import new_folder
from image_longitudinal.models.evaluation.records import (
    DesignChecks,
    EvaluatedDataset,
    Evaluation,
    LatentReading,
    LevelScores,
    NullCheck,
)
from image_longitudinal.storage.dataset.predictions import write_predictions
from image_longitudinal.tasks.engine.assets import record_product
from image_longitudinal.tasks.evaluation import figures, tables
from image_longitudinal.tasks.evaluation.population import fitted_model
from image_longitudinal.tasks.evaluation.predictions import load_predictions
from image_longitudinal.tasks.evaluation.run import EvaluationRun, LevelFiles, StageFiles
from image_longitudinal.tasks.products import dataset_product, evaluation_product
from image_longitudinal.tasks.reports.figure_data import figure_csv
from image_longitudinal.tasks.reports.pages import page
from image_longitudinal.tasks.reports.pictures import picture, vector
from image_longitudinal.tasks.reports.scorecard import scorecard_figure, scorecard_rows

NAME, PAGE = "evaluation.json", "evaluation.html"
FILES = (NAME, PAGE, "tables", "figures", "predictions")


@task(name="write-evaluation", task_run_name="write tables and report", persist_result=False)
def write_evaluation(
    folder: Path, run: EvaluationRun, settings: EvaluationConfig, reading: StageFiles, levels: Sequence[LevelFiles],
    checks: StageFiles, null: StageFiles, key: str, overwrite: bool,
) -> Evaluation:  # fmt: skip
    """Write every table, figure and prediction, a whole evaluation or nothing; see :func:`core.outputs.new_folder`.

    ``key`` is the digest of the evaluation's spec, by which :func:`finished_evaluation` finds it again.
    """
    with new_folder(folder, FILES, overwrite) as made:
        evaluation, r2, trajectories = _write(made, run, settings, reading, levels, checks, null, key)
    create_markdown_artifact(
        f"# Evaluation of {evaluation.dataset.name}\n\n{picture(r2, 'R² against designed level')}\n\n"
        f"{picture(trajectories, 'trajectories')}",
        key="evaluation", description=f"Evaluation of {evaluation.dataset.name}, report in {folder / PAGE}",
    )  # fmt: skip
    origin = dataset_product(run.dataset.manifest, run.url, run.workspace)
    record_product(evaluation_product(evaluation, folder, origin))
    return evaluation


def finished_evaluation(folder: Path, key: str) -> Evaluation | None:
    """The evaluation that a folder holds, if it is whole and has this key."""
    try:
        found = Evaluation.read(folder / NAME)
    except (OSError, ValidationError):
        return None
    return found if found.key == key and all((folder / name).exists() for name in FILES) else None


def _write(
    folder: Path, run: EvaluationRun, settings: EvaluationConfig, reading: StageFiles, levels: Sequence[LevelFiles],
    checks: StageFiles, null: StageFiles, key: str,
) -> tuple[Evaluation, Figure, Figure]:  # fmt: skip
    """Fill a folder; returns the content of its JSON file, and the two pictures that a run shows."""
    dataset = run.dataset
    manifest, names = dataset.manifest, dataset.manifest.random_effects
    evaluation = Evaluation(
        dataset=EvaluatedDataset(name=manifest.name, identity=manifest.identity, url=run.url),
        settings=settings,
        latent_reading=LatentReading.read(reading.path("reading.json")),
        levels=tuple(LevelScores.read(files.scores.path("scores.json")) for files in levels),
        checks=DesignChecks.read(checks.path("checks.json")).checks,
        null=NullCheck.read(null.path("null.json")),
        key=key,
    )
    evaluation.write(folder / NAME)
    scored = evaluation.levels
    written = [
        tables.effect_table(scored),
        tables.each_effect_table(scored, names),
        tables.outcome_table(scored),
        tables.forecast_table(scored),
        tables.calibration_table(scored),
        tables.population_table(scored),
        tables.null_table(evaluation.null),
        tables.check_table(evaluation.checks),
    ]
    for table in written:
        table.write(folder / "tables")
        create_table_artifact(table.records, key=f"evaluation-{table.name}", description=table.title)

    loaded = [
        load_predictions(run, files.level, files.population, files.estimates, files.predictions, files.resnet)
        for files in levels
    ]
    for truth, predictions in loaded:
        for name, eta in predictions.sources.items():
            write_predictions(folder / "predictions" / f"{name}-{truth.level:g}.parquet", truth.ids, truth.level, eta)

    strongest = int(np.argmax([files.level for files in levels]))
    (truth, predictions), model = loaded[strongest], fitted_model(run, levels[strongest].population)
    pictures = {
        "r2": figures.r2_figure(scored),
        "trajectories": figures.trajectories_figure(model, run.model, truth, predictions),
        "forecasts": figures.forecast_figure(scored),
        "calibration": figures.calibration_figure(scored),
        "reading": figures.reading_figure(evaluation.latent_reading.r2, manifest.eta_latents or ()),
        "design": figures.design_figure(evaluation.checks),
        "extremes": figures.extremes_figure(dataset, truth, predictions, names),
        "scatter": figures.scatter_figure([one for one, _ in loaded], [two for _, two in loaded], names),
        **figures.fit_figures(model, truth),
    }
    image_model = run.encoder("auto")
    measured = image_model.metadata.measured if image_model else None
    if measured and measured.judgement and measured.judgement.utility:
        pictures["scorecard"] = scorecard_figure(measured.judgement.utility)
    for name, figure in pictures.items():
        write_atomically(folder / "figures" / f"{name}.svg", vector(figure))
        if numbers := figure_csv(figure):
            write_atomically(folder / "figures" / f"{name}.csv", numbers)
    filled = page(
        PAGE, pictures, manifest=manifest, evaluation=evaluation, headline=tables.headline_table(scored),
        strongest=truth.level, tables={table.name: table for table in written},
        scorecard=scorecard_rows(measured) if measured else [],
    )  # fmt: skip
    write_atomically(folder / PAGE, filled)
    return evaluation, pictures["r2"], pictures["trajectories"]
