"""Stages of the population: its parameters fitted at a level, and empirical Bayes estimates under them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from prefect import task

from image_longitudinal.models.evaluation.records import PopulationEstimate
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.ebes import stream_ebes
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.estimation.maximum_likelihood import maximum_likelihood
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.tasks.engine.cache_keys import CACHED
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.evaluation import data
from image_longitudinal.tasks.evaluation.run import EvaluationRun, StageFiles, save_array
from image_longitudinal.tasks.evaluation.specs import EstimateSpec, PopulationFitSpec

# Initial values of the published fit (arXiv 2410.16177); other models start at their own typical values.
STARTS = {"depot-central-mm": PopulationParameters(np.log([1.0, 1.1, 0.6]), 0.2 * np.eye(3), np.array([0.1, 0.0, 1.0]))}


@task(name="fit-population", task_run_name="fit population at {level}", **CACHED)
def fit_level(key: str, folder: Path, run: EvaluationRun, spec: PopulationFitSpec, level: float) -> StageFiles:
    """Outcomes of the level as arrays, and the population fitted to training subjects evenly spaced among all."""
    for split in ("train", "test"):
        save_array(folder / f"{split}.npy", data.outcomes(run.dataset, level, split))
    _fitted(run, spec, np.load(folder / "train.npy", mmap_mode="r")).write(folder / "population.json")
    return StageFiles.of(folder, "train.npy", "test.npy", "population.json")


@task(name="estimate-effects", task_run_name="empirical Bayes estimates at {level}", **CACHED)
def estimate_effects(
    key: str, folder: Path, run: EvaluationRun, spec: EstimateSpec, level: float, population: StageFiles
) -> StageFiles:
    """Empirical Bayes estimates of training and test subjects under the population; a stopped run continues."""
    dataset, model = run.dataset, fitted_model(run, population)
    for split in ("train", "test"):
        what, n = f"estimate effects at {level:g} {split}", len(data.split_ids(dataset, split))
        file = stream_ebes(
            model, dataset.scan("observations", level, split), folder / f"{split}.parquet", n_threads=run.workers,
            progress=Progress(what, n, "subjects").update,
        )  # fmt: skip
        modes = pq.read_table(file.path, columns=list(model.random_effect_names))
        save_array(folder / f"{split}.npy", np.stack([column.to_numpy() for column in modes.columns], axis=1))
    return StageFiles.of(folder, "train.npy", "test.npy")


def fitted_model(run: EvaluationRun, population: StageFiles) -> PopulationModel:
    """The population model with the fitted values."""
    found = PopulationEstimate.read(population.path("population.json"))
    return PopulationParameters(np.array(found.mu), np.array(found.omega), np.array(found.error)).into(run.model)


def start_of(model: PopulationModel) -> PopulationModel:
    """Initial values: the published ones, or the model's own with small effects and a large residual error."""
    own = PopulationParameters.of(model)
    doubled = (own.error.reshape(-1, 3) * [2.0, 2.0, 1.0]).ravel()
    return STARTS.get(model.name, PopulationParameters(own.mu, 0.5 * own.omega, doubled)).into(model)


def _fitted(run: EvaluationRun, spec: PopulationFitSpec, observed: NDArray[np.float32]) -> PopulationEstimate:
    """The population of training subjects with outcomes (n, T)."""
    model, values = run.model, PopulationParameters.of(run.model)
    coordinates = Coordinates(model, "full", ())
    natural = coordinates.natural(coordinates.pack(values)).tolist()
    known = PopulationEstimate(
        method="known", converged=True, message="true values", true=dict(zip(coordinates.names, natural, strict=True)),
        mu=values.mu.tolist(), omega=values.omega.tolist(), error=values.error.tolist(),
    )  # fmt: skip
    if spec.fit_subjects is None:
        return known
    chosen = np.unique(np.linspace(0, len(observed) - 1, min(spec.fit_subjects, len(observed))).astype(int))
    sample = PopulationData.of_design(
        model.structural, np.asarray(observed[chosen], np.float64), model.design.times, model.design.doses
    )
    found = foce = fit(start_of(model), sample, "FOCE", covariance="gradient", n_threads=run.workers)
    if spec.method == "likelihood":
        # Without more draws than the first: what an evaluation needs is less exact than a fit.
        found = maximum_likelihood(foce, sample, growth=1, seed=run.dataset.manifest.seed, n_threads=run.workers)
    values = PopulationParameters.of(found.model)
    return PopulationEstimate(
        method=found.method, converged=found.converged, message=found.message, true=known.true,
        mu=values.mu.tolist(), omega=values.omega.tolist(), error=values.error.tolist(),
        estimates=found.table, foce={name: value for name, (value, _) in foce.table.items()},
        shrinkage=dict(zip(model.random_effect_names, found.shrinkage.tolist(), strict=True)),
        objective=found.objective, subjects=len(chosen),
    )  # fmt: skip
