"""evaluate-dataset: design against truth, population fit, images → random effects, tables, figures and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from image_longitudinal.core.config import Config
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.tasks.engine.parameters import ConfigChoice, resolve
from image_longitudinal.tasks.evaluation.report import PAGE, headline, write_evaluation
from image_longitudinal.tasks.evaluation.spec import EvaluationSpec, check_is_evaluable, default_output
from image_longitudinal.tasks.evaluation.stages import (
    check_design,
    check_input,
    check_null,
    estimate_effects,
    fit_population,
    predict_effects,
    read_images,
    run_stage,
    score_predictions,
    train_on_estimates,
)

READER = ("reader", "components", "products")
POPULATION = ("population", "fit_subjects")
PREDICTORS = ("rounds", "folds")
RESNET = ("resnet",)
SCORES = ("bootstrap", "visits")


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
) -> dict[str, Any]:
    """Evaluate a published data set; finished stages are not computed again.

    Args:
        dataset: Its address, a local folder or any fsspec URL.
        output: Local folder for tables, figures and report; evaluations/NAME-IDENTITY by default.
        preset: Configuration to start from; its section evaluation counts.
        overrides: Values over the preset's, such as evaluation.bootstrap=200, one per line.
        config: A whole configuration in the preset's place.
        workspace: Where registered models lie, and the files of finished stages.
        workers: Threads; no figure depends on their number.
        verify: Verify the data set first, every byte of it.

    Returns:
        The figures: reader, levels, checks, null, as in evaluation.json; and "output", the folder.
    """
    config = resolve(preset, config, overrides)
    opened = open_dataset(dataset)
    check_is_evaluable(opened, config.evaluation)
    spec = EvaluationSpec(
        url=opened.root.url,
        identity=opened.manifest.identity,
        settings=config.evaluation,
        workspace=workspace,
        device=config.compute.device,
        workers=workers,
    )
    if verify:
        check_input(spec)
    images = run_stage(read_images, spec, spec.key("read-images", *READER, reader_is=spec.reader_digest))
    levels: dict[str, dict[str, Any]] = {}
    for level in spec.levels:
        population = run_stage(fit_population, spec, spec.key("fit-population", *POPULATION, level=level), level=level)
        effects = run_stage(
            estimate_effects,
            spec,
            spec.key("estimate-effects", population=population["files"], level=level),
            level=level,
            population=population,
        )
        inputs = {"population": population, "effects": effects}
        made_of = {name: result["files"] for name, result in inputs.items()}
        predicted = run_stage(
            predict_effects,
            spec,
            spec.key("predict-effects", *PREDICTORS, images=images["files"], level=level, **made_of),
            level=level,
            images=images,
            **inputs,
        )
        resnet = None
        if spec.settings.resnet.steps:
            key = spec.key("train-resnet", *RESNET, effects=effects["files"], level=level)
            resnet = run_stage(train_on_estimates, spec, key, level=level, effects=effects)
            made_of["resnet"] = resnet["files"]
        scores = run_stage(
            score_predictions,
            spec,
            spec.key("score", *SCORES, predicted=predicted["files"], level=level, **made_of),
            level=level,
            predicted=predicted,
            resnet=resnet,
            **inputs,
        )
        levels[str(level)] = {**inputs, "predicted": predicted, "resnet": resnet, "scores": scores}
    outcomes = {level: stages["population"] for level, stages in levels.items()}
    checks = run_stage(
        check_design, spec, spec.key("check-design", "residual_subjects", levels=spec.levels), outcomes=outcomes
    )
    strongest = max(spec.levels)
    stages = levels[str(strongest)]
    null = run_stage(
        check_null,
        spec,
        spec.key("null", *PREDICTORS, "bootstrap", images=images["files"], effects=stages["effects"]["files"]),
        level=strongest,
        images=images,
        population=stages["population"],
        effects=stages["effects"],
    )
    folder = output or str(default_output(opened.manifest))
    figures = write_evaluation(folder, spec, images, levels, checks, null)
    get_run_logger().info(f"evaluated {spec.url}: {Path(folder) / PAGE}")
    return {**figures, "output": folder, "headline": headline(figures["levels"])}
