"""Predictions for new subjects by a fit with images: a table that is written."""

from pathlib import Path

import numpy as np

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.image_effects.evidence import By
from image_longitudinal.models.image_effects.prediction import by_prior, with_visits
from image_longitudinal.models.image_effects.predictor import ImagePredictor
from image_longitudinal.models.nlme.data.nmtran_reader import open_observations, whole
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.results import load_fit
from image_longitudinal.storage.scans.subject_pictures import find_subject_pictures, ids_of_pictures
from image_longitudinal.tasks.population.images import write_predictions
from image_longitudinal.tasks.population.inputs import named_model, reading_of
from image_longitudinal.tasks.population.options import PredictOptions
from image_longitudinal.tasks.population.subject_images import read_subject_images
from image_longitudinal.tasks.population.summary import IMAGE_PREDICTOR, RESULTS, read_summary


def predict_effects(options: PredictOptions, output: str, workers: int = 1) -> str:
    """Write random effects and parameters of new subjects by their images, and with a table also with its visits.

    The table written has the columns of :func:`.images.write_predictions`; sources ``image``, and with a table
    ``visits`` (without images) and ``image+visits``. Returns its path.

    Raises:
        ConfigError: the folder holds no fit with images, or a table that cannot be used.
        StorageError: images that cannot be used, or ids that do not fit together.
    """
    folder = Path(options.fit)
    summary = read_summary(folder)
    if summary is None or not (folder / IMAGE_PREDICTOR).exists():
        expected = f"a folder with {IMAGE_PREDICTOR}, as fit --images writes"
        raise ConfigError("no fit with images", where=folder, expected=expected)
    predictor = ImagePredictor.load(folder / IMAGE_PREDICTOR)
    model = load_fit(folder / RESULTS, named_model(summary.model, options.model_file, {})).model
    data: PopulationData | None = None
    if options.table is not None:
        table = open_observations(options.table, model.structural, reading_of(options, model))
        data = table.population(whole(table))
        if options.visits is not None:
            visit = np.arange(len(data.times)) - np.repeat(data.row_start[:-1], np.diff(data.row_start))
            data = data.with_rows(visit < options.visits)
    place, listed, column = options.images, options.image_list, options.id_column
    ids = data.names if data is not None else np.array(ids_of_pictures(place, listed=listed, id_column=column))
    pictures = find_subject_pictures(place, ids.tolist(), listed=listed, id_column=column)
    images = read_subject_images(pictures, encoder=predictor.encoder, workspace=options.workspace, size=predictor.size)
    mean = predictor(images.inputs)
    found = {"image": by_prior(model, mean, predictor.omega)}
    if data is not None:
        by: By = "imp" if predictor.by == "imp" else "focei"
        none = np.zeros_like(mean)
        found["visits"] = with_visits(model, data, none, predictor.total, by=by, workers=workers)
        found["image+visits"] = with_visits(model, data, mean, predictor.omega, by=by, workers=workers)
    write_predictions(Path(output), model, ids, found)
    return output
