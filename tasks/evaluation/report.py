"""What an evaluation leaves for people: tables in three formats, figures, predictions, and one page with all of it."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, StrictUndefined
from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from image_longitudinal.core.files import replacing, write_atomically
from image_longitudinal.models.evaluation.summary import Predictions, Truth
from image_longitudinal.storage.dataset.layout import eta_columns
from image_longitudinal.tasks.evaluation import figures, tables
from image_longitudinal.tasks.evaluation.spec import EvaluationSpec
from image_longitudinal.tasks.evaluation.stages import Result, load_predictions, population_model, read_figures
from image_longitudinal.tasks.reports.pictures import data_url, picture

PAGE = "evaluation.html"
HEADLINE = ("regression", "resnet", "informed", "one_step", "oracle", "ebe")


@task(name="write-evaluation", task_run_name="write tables and report", persist_result=False)
def write_evaluation(
    output: str,
    spec: EvaluationSpec,
    images: Result,
    levels: dict[str, dict[str, Any]],
    checks: Result,
    null: Result,
) -> dict[str, Any]:
    """Write every table, figure and prediction into a folder; the figures of the evaluation as plain values.

    Args:
        output: local folder; files of an earlier evaluation are replaced.
        spec: the evaluation.
        images: result of read-images.
        levels: by level, the results of its stages: population, effects, predicted, resnet, scores.
        checks: result of check-design.
        null: result of check-null.
    """
    folder, dataset = Path(output), spec.dataset
    for name in ("tables", "figures", "predictions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    manifest, names = dataset.manifest, dataset.manifest.random_effects
    scored = [read_figures(stages["scores"], "scores.json") for stages in levels.values()]
    found, nothing = read_figures(checks, "checks.json"), read_figures(null, "null.json")
    reading = read_figures(images, "reader.json")
    everything = {
        "dataset": {"name": manifest.name, "identity": manifest.identity, "url": spec.url},
        "settings": spec.settings.model_dump(mode="json"),
        "reader": reading,
        "levels": scored,
        "checks": found,
        "null": nothing,
    }
    write_atomically(folder / "evaluation.json", json.dumps(everything, indent=1) + "\n")

    made = [
        tables.effect_table(scored),
        tables.each_effect_table(scored, names),
        tables.outcome_table(scored),
        tables.forecast_table(scored),
        tables.calibration_table(scored),
        tables.population_table(scored),
        tables.null_table(nothing),
        tables.check_table(found),
    ]
    for table in made:
        table.write(folder / "tables")

    loaded = [load_predictions(spec, float(level), *_of(stages)) for level, stages in levels.items()]
    for truth, predictions in loaded:
        write_predictions(folder / "predictions", truth, predictions)
    models = [population_model(spec, stages["population"]) for stages in levels.values()]
    strong = int(np.argmax([truth.level for truth, _ in loaded]))
    truth, predictions = loaded[strong]
    pictures = {
        "r2": figures.r2_figure(scored),
        "trajectories": figures.trajectories_figure(models[strong], spec.model, truth, predictions),
        "forecasts": figures.forecast_figure(scored),
        "calibration": figures.calibration_figure(scored),
        "reading": figures.reading_figure(reading["r2"], manifest.eta_latents),
        "design": figures.design_figure(found),
        "extremes": figures.extremes_figure(dataset, truth, predictions, names),
        "scatter": figures.scatter_figure([one for one, _ in loaded], [two for _, two in loaded], names),
        **figures.fit_figures(models[strong], truth),
    }
    for name, png in pictures.items():
        write_atomically(folder / "figures" / f"{name}.png", png)
    page = _template().render(
        manifest=manifest,
        reading=reading,
        pictures={name: data_url(png) for name, png in pictures.items()},
        tables={table.name: table for table in made},
        failed=[check for check in found if not check["passed"]],
        checks=found,
        null=nothing,
        levels=scored,
        headline=headline(scored),
        strongest=truth.level,
        settings=spec.settings,
    )
    write_atomically(folder / PAGE, page)
    for table in made:
        create_table_artifact(table.records, key=f"evaluation-{table.name}", description=table.title)
    create_markdown_artifact(
        f"# Evaluation of {manifest.name}\n\n{picture(pictures['r2'], 'R² against designed level')}\n\n"
        f"{picture(pictures['trajectories'], 'trajectories')}",
        key="evaluation",
        description=f"Evaluation of {manifest.name}, report in {folder / PAGE}",
    )
    return everything


def headline(levels: list[dict[str, Any]]) -> tables.Table:
    """Share of the realised ceiling per predictor and level; a dash where its test subjects are too few to say."""
    sources = [name for name in HEADLINE[:-1] if all(name in level["effects"] for level in levels)]
    rows = []
    for source in sources:
        shares = (
            f"{100 * level['effects'][source]['of_realised'][0]:.1f}" if level["ceiling"][1] > 0 else "–"
            for level in levels
        )
        rows.append((tables.SOURCES[source], *shares))
    columns = ("% of the realised ceiling at ρ² =", *(f"{level['level']:g}" for level in levels))
    return tables.Table("headline", "Share of the realised ceiling", columns, rows)


def write_predictions(folder: Path, truth: Truth, predictions: Predictions) -> None:
    """Each source's predictions of a level as a file that ``score`` takes."""
    sources = {**predictions.sources, "ebe": truth.modes, "average": np.zeros_like(truth.eta)}
    for name, eta in sources.items():
        columns = {"id": pa.array(truth.ids), "association": pa.array(np.full(len(truth.ids), truth.level))}
        columns |= {column: pa.array(eta[:, i]) for i, column in enumerate(eta_columns(eta.shape[1]))}
        with replacing(folder / f"{name}-{truth.level:g}.parquet") as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")


def _of(stages: dict[str, Any]) -> tuple[Result, Result, Result, Result | None]:
    return stages["population"], stages["effects"], stages["predicted"], stages["resnet"]


def _template() -> Any:
    text = resources.files("image_longitudinal.tasks.reports").joinpath("templates", PAGE).read_text()
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(text)
