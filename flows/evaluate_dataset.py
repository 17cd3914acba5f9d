"""evaluate-dataset: design against truth, population fit, images → random effects, tables, figures and a report."""

from dataclasses import dataclass
from pathlib import Path

from prefect import flow, get_run_logger

from image_longitudinal.core.config import Config
from image_longitudinal.models.evaluation.records import Evaluation
from image_longitudinal.tasks.engine.parameters import ConfigChoice, load_trusted, resolve
from image_longitudinal.tasks.evaluation.checks import check_design, check_input, check_null
from image_longitudinal.tasks.evaluation.planned import plan_evaluation
from image_longitudinal.tasks.evaluation.population import estimate_effects, fit_level
from image_longitudinal.tasks.evaluation.predictions import (
    predict_by_resnet,
    predict_effects,
    read_latents,
    score_predictors,
)
from image_longitudinal.tasks.evaluation.report import PAGE, write_evaluation
from image_longitudinal.tasks.evaluation.run import EvaluationRun, LevelFiles, StageFiles, run_stage
from image_longitudinal.tasks.evaluation.specs import EvaluationSpec


@dataclass(frozen=True)
class EvaluationResult:
    """The figures of an evaluation, and the folder with its tables, figures, predictions and report."""

    evaluation: Evaluation
    folder: Path


@flow(name="evaluate-dataset", flow_run_name="evaluate {dataset}", persist_result=False)
def evaluate_dataset(
    dataset: str,
    output: str | None = None,
    preset: ConfigChoice = "demo",
    overrides: tuple[str, ...] = (),
    config: Config | None = None,
    workspace: str = "workspace",
    workers: int = 2,
    verify: bool = True,
    overwrite: bool = False,
    trust: tuple[str, ...] = (),
) -> EvaluationResult:
    """Evaluate a published data set; finished stages are not computed again.

    Args:
        dataset: Its address, a local folder or any fsspec URL.
        output: Local folder for tables, figures and report; evaluations/NAME-IDENTITY by default.
        preset: Configuration to start from; its section evaluation counts.
        overrides: Values over the preset's, such as evaluation.bootstrap=200, one per line.
        config: A whole configuration in the preset's place.
        workspace: Folder of registered models and of the files of finished stages.
        workers: Threads; no figure depends on their number.
        verify: Verify the data set first, every byte of it.
        overwrite: Replace another evaluation in the output.
        trust: Files of longitudinal models that the data set names and that may run; no other code runs that data name.
    """
    config = resolve(preset, config, overrides)
    load_trusted(trust)
    planned = plan_evaluation(dataset, output, config, workspace, workers, overwrite)
    run, spec, folder, done = planned.run, planned.spec, planned.folder, planned.finished
    if verify:
        check_input(run)
    if done is not None:
        get_run_logger().info(f"cache hit: this evaluation exists: {folder / PAGE}")
        return EvaluationResult(done, folder)
    reading = run_stage(read_latents, run, spec.reading)
    evaluated = [evaluate_level(run, spec, level, reading) for level in planned.levels]
    checks = run_stage(check_design, run, spec.design)
    best = max(evaluated, key=lambda files: files.level)
    fitted = {"population": best.population, "estimates": best.estimates}
    null = run_stage(check_null, run, spec.null, best.level, reading=reading, **fitted)
    evaluation = write_evaluation(
        folder, run, config.evaluation, reading, evaluated, checks, null, key=spec.digest, overwrite=overwrite
    )
    get_run_logger().info(f"evaluated {run.url}: {folder / PAGE}")
    return EvaluationResult(evaluation, folder)


def evaluate_level(run: EvaluationRun, spec: EvaluationSpec, level: float, reading: StageFiles) -> LevelFiles:
    """Run the stages of one level: population, estimates, predictions, scores."""
    population = run_stage(fit_level, run, spec.population, level)
    estimates = run_stage(estimate_effects, run, spec.estimates, level, population=population)
    fitted = {"population": population, "estimates": estimates}
    predictions = run_stage(predict_effects, run, spec.predictors, level, reading=reading, **fitted)
    resnet = run_stage(predict_by_resnet, run, spec.resnet, level, estimates=estimates) if spec.resnet else None
    scores = run_stage(score_predictors, run, spec.scores, level, **fitted, predictions=predictions, resnet=resnet)
    return LevelFiles(level=level, **fitted, predictions=predictions, resnet=resnet, scores=scores)
