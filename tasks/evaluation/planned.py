"""What an evaluation will be, before any of it is computed: its inputs, its place, and whether it is there already."""

from dataclasses import dataclass
from pathlib import Path

from image_longitudinal.core.config import Config
from image_longitudinal.core.outputs import check_new_folder
from image_longitudinal.models.evaluation.records import Evaluation
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.tasks.evaluation.checks import check_is_evaluable
from image_longitudinal.tasks.evaluation.report import FILES, finished_evaluation
from image_longitudinal.tasks.evaluation.run import EvaluationRun, default_output
from image_longitudinal.tasks.evaluation.specs import EvaluationSpec


@dataclass(frozen=True)
class PlannedEvaluation:
    """``finished``: the evaluation that the folder holds, if it is this one."""

    run: EvaluationRun
    spec: EvaluationSpec
    levels: tuple[float, ...]
    folder: Path
    finished: Evaluation | None


def plan_evaluation(
    dataset: str, output: str | None, config: Config, workspace: str, workers: int, overwrite: bool
) -> PlannedEvaluation:
    """Open the data set and check everything that the arguments of ``evaluate-dataset`` ask for.

    Raises:
        StorageError: no such data set, one that cannot be evaluated, or an output that holds something else.
        ModelError: the encoder is asked for and the workspace does not have the model.
    """
    settings, opened = config.evaluation, open_dataset(dataset)
    check_is_evaluable(opened, settings)
    levels = settings.levels or opened.levels
    run = EvaluationRun(url=opened.root.url, workspace=workspace, device=config.compute.device, workers=workers)
    encoder = run.encoder(settings.latent_regressor)
    spec = EvaluationSpec.of(opened.manifest.identity, settings, levels, encoder.digest if encoder else None)
    folder = Path(output or default_output(opened.manifest))
    finished = finished_evaluation(folder, spec.digest)
    if finished is None:
        check_new_folder(folder, FILES, overwrite)
    return PlannedEvaluation(run, spec, levels, folder, finished)
