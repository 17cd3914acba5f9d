"""The stages as Prefect tasks. Each result names a folder and the digests of its files, checked before it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from prefect import task

from image_longitudinal.core.digest import file_sha256
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.evaluation.bootstrap import Resampling
from image_longitudinal.models.evaluation.checks import (
    association_checks,
    balance_checks,
    effect_checks,
    failures,
    latent_checks,
    residual_checks,
)
from image_longitudinal.models.evaluation.informed import fit_informed, one_step
from image_longitudinal.models.evaluation.null import shuffled
from image_longitudinal.models.evaluation.pca_regressor import fit_reader
from image_longitudinal.models.evaluation.resnet import train_resnet
from image_longitudinal.models.evaluation.ridge import cross_fit
from image_longitudinal.models.evaluation.summary import Predictions, Truth, summarise
from image_longitudinal.models.imaging.backends import load_vae
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.ebe_streaming import stream_ebes
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.estimation.importance_sampling import maximum_likelihood
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.quality.recoverability import encoder_reader
from image_longitudinal.models.training.tensors import default_device
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.tasks.engine.cache_keys import cached_or_fresh
from image_longitudinal.tasks.engine.gpu_slots import holds_gpu_slots
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.engine.task_options import CACHED
from image_longitudinal.tasks.evaluation import data
from image_longitudinal.tasks.evaluation.spec import EvaluationSpec, start_of

Result = dict[str, Any]
Reading = Callable[[NDArray[np.int64], NDArray[np.uint8]], NDArray[np.float64]]  # ids, images → features


@task(name="check-input", task_run_name="verify the data set", persist_result=False)
def check_input(spec: EvaluationSpec) -> None:
    """Refuse a data set that does not verify; StorageError names the first file that is wrong."""
    root = spec.dataset.root
    progress = Progress("verify", spec.dataset.manifest.plan.n_shards, "shards")
    report = verify_dataset(root, progress=lambda done, total: progress.update(done), workers=spec.workers)
    if not report.ok:
        raise StorageError(
            f"the data set does not verify, {len(report.problems)} problems; the first: {report.problems[0]}",
            where=root.url, do=f"see them with: image-longitudinal verify {root.url}",
        )  # fmt: skip


def run_stage(stage: Any, spec: EvaluationSpec, key: str, **parameters: Any) -> Result:
    """Run a stage, or take its result from the cache where its files are still as they were."""
    return cached_or_fresh(stage, _intact, key=key, folder=str(spec.folder(key)), spec=spec, **parameters)


@task(name="read-images", task_run_name="read z from images", **CACHED)
@holds_gpu_slots
def read_images(key: str, folder: str, spec: EvaluationSpec) -> Result:
    """Features of every training and test image, read once; how well each latent entry reads back on test images."""
    dataset, where = spec.dataset, _made(folder)
    version, settings = spec.own_model(), spec.settings
    if version is not None:
        how, read = "encoder", encoder_reader(load_vae(version).to(default_device(spec.device)))
        readings = {"train": lambda ids, images: read(images), "test": lambda ids, images: read(images)}
    else:
        how = "polynomial"
        polynomial = fit_reader(
            lambda: data.image_chunks(dataset, "train"), components=settings.components, products=settings.products
        )
        readings = {
            "train": lambda ids, images: polynomial.out_of_fold(images, ids),
            "test": lambda ids, images: polynomial(images),
        }
    recovered: list[float] = []
    for split, reading in readings.items():
        recovered = _write_features(dataset, split, reading, where / f"{split}.npy")
    _write(where / "reader.json", {"reader": how, "r2": recovered})
    return _result(where, "train.npy", "test.npy", "reader.json")


@task(name="fit-population", task_run_name="fit population at {level}", **CACHED)
def fit_population(key: str, folder: str, spec: EvaluationSpec, level: float) -> Result:
    """Outcomes of the level as arrays, and the population fitted to training subjects evenly spaced among them."""
    where, dataset, model = _made(folder), spec.dataset, spec.model
    for split in ("train", "test"):
        data.write_outcomes(dataset, level, split, where / f"{split}.npy")
    if spec.settings.population == "known":
        figures: Result = {"method": "known", "converged": True, "message": "true values taken"}
        figures |= {"estimates": {}, "foce": {}}
        values = PopulationParameters.of(model)
    else:
        observed = np.load(where / "train.npy", mmap_mode="r")
        chosen = np.unique(
            np.linspace(0, len(observed) - 1, min(spec.settings.fit_subjects, len(observed))).astype(int)
        )
        sample = PopulationData.of_design(
            model.structural, np.asarray(observed[chosen], np.float64), model.design.times, model.design.doses
        )
        fitted = foce = fit(start_of(model), sample, "FOCE", covariance="gradient", n_threads=spec.workers)
        if spec.settings.population == "likelihood":
            fitted = maximum_likelihood(foce, sample, seed=dataset.manifest.seed, n_threads=spec.workers)
        values = PopulationParameters.of(fitted.model)
        figures = {
            "method": fitted.method,
            "estimates": {name: [value, error] for name, (value, error) in fitted.table.items()},
            "foce": {name: value for name, (value, _) in foce.table.items()},
            "shrinkage": dict(zip(model.random_effect_names, fitted.shrinkage.tolist(), strict=True)),
            "objective": fitted.objective,
            "subjects": len(chosen),
            "converged": fitted.converged,
            "message": fitted.message,
        }
    figures["true"] = true_values(model)
    figures |= {"mu": values.mu.tolist(), "omega": values.omega.tolist(), "error": values.error.tolist()}
    _write(where / "population.json", figures)
    return _result(where, "train.npy", "test.npy", "population.json")


@task(name="estimate-effects", task_run_name="empirical Bayes estimates at {level}", **CACHED)
def estimate_effects(key: str, folder: str, spec: EvaluationSpec, level: float, population: Result) -> Result:
    """Empirical Bayes estimates of training and test subjects under the fitted population; a stopped run goes on."""
    where, dataset, model = _made(folder), spec.dataset, population_model(spec, population)
    for split in ("train", "test"):
        observations = dataset.scan("observations", level, split)
        progress = Progress(f"estimate effects at {level:g} {split}", len(data.split_ids(dataset, split)), "subjects")
        file = stream_ebes(
            model, observations, where / f"{split}.parquet", n_threads=spec.workers, progress=progress.update
        )
        modes = pq.read_table(file.path, columns=list(model.random_effect_names))
        np.save(where / f"{split}.npy", np.stack([column.to_numpy() for column in modes.columns], axis=1))
    return _result(where, "train.npy", "test.npy")


@task(name="predict-effects", task_run_name="images to random effects at {level}", **CACHED)
def predict_effects(
    key: str, folder: str, spec: EvaluationSpec, level: float, images: Result, population: Result, effects: Result
) -> Result:
    """Fit the predictors to training subjects and predict the test subjects' random effects."""
    where, model, settings = _made(folder), population_model(spec, population), spec.settings
    train, test = (np.load(Path(images["folder"]) / f"{split}.npy", mmap_mode="r") for split in ("train", "test"))
    modes = np.load(Path(effects["folder"]) / "train.npy")
    ids = data.split_ids(spec.dataset, "train")
    true = data.true_effects(spec.dataset, level, "train")
    observed = np.load(Path(population["folder"]) / "train.npy", mmap_mode="r")
    informed = fit_informed(
        model, observed, train, modes, ids, rounds=settings.rounds, folds=settings.folds, workers=spec.workers
    )
    predictors = {
        "regression": cross_fit(train, modes, ids, settings.folds).whole,
        "informed": informed.head.whole,
        "one_step": one_step(model, observed, train, modes, ids, settings.folds, spec.workers).whole,
        "oracle": cross_fit(train, true, ids, settings.folds).whole,
    }
    for name, predictor in predictors.items():
        np.save(where / f"{name}.npy", predictor(test))
    _write(where / "informed.json", {"omega": informed.omega.tolist(), "objectives": informed.objectives})
    return _result(where, *(f"{name}.npy" for name in predictors), "informed.json")


@task(name="train-resnet", task_run_name="ResNet18 on estimates at {level}", **CACHED)
@holds_gpu_slots
def train_on_estimates(key: str, folder: str, spec: EvaluationSpec, level: float, effects: Result) -> Result:
    """The published predictor: images → empirical Bayes estimates end to end; predictions of test subjects."""
    where, settings, dataset = _made(folder), spec.settings, spec.dataset
    progress = Progress(f"train resnet at {level:g}", settings.resnet.steps, "steps")
    predictor = train_resnet(
        data.SplitImages(dataset, "train"),
        np.load(Path(effects["folder"]) / "train.npy"),
        steps=settings.resnet.steps,
        batch_size=settings.resnet.batch_size,
        width=settings.resnet.width,
        precision=settings.resnet.mixed_precision,
        seed=dataset.manifest.seed,
        device=spec.device,
        checkpoint=where / "resnet.checkpoint",
        report=progress.of_training,
    )
    parts = [predictor(images) for _, images, _ in data.image_chunks(dataset, "test")]
    np.save(where / "resnet.npy", np.concatenate(parts))
    return _result(where, "resnet.npy")


@task(name="score-predictions", task_run_name="score at {level}", **CACHED)
def score_predictions(
    key: str,
    folder: str,
    spec: EvaluationSpec,
    level: float,
    population: Result,
    effects: Result,
    predicted: Result,
    resnet: Result | None,
) -> Result:
    """Every table of one level, as JSON."""
    where, model = _made(folder), population_model(spec, population)
    truth, predictions = load_predictions(spec, level, population, effects, predicted, resnet)
    resampling = Resampling(len(truth.ids), truth.seed, spec.settings.bootstrap)
    figures = summarise(
        model,
        truth,
        predictions,
        resampling=resampling,
        visits=spec.settings.visits,
        known=spec.model,
        workers=spec.workers,
    )
    figures["population"] = _read(Path(population["folder"]) / "population.json")
    figures["objectives"] = _read(Path(predicted["folder"]) / "informed.json")["objectives"]
    _write(where / "scores.json", figures)
    return _result(where, "scores.json")


@task(name="check-design", task_run_name="design against truth", **CACHED)
def check_design(key: str, folder: str, spec: EvaluationSpec, outcomes: dict[str, Result]) -> Result:
    """Everything that the design promises, tested."""
    where, dataset, model = _made(folder), spec.dataset, spec.model
    names, splits = dataset.manifest.random_effects, dataset.manifest.present_splits
    linked = {split: data.linked_effects(dataset, split) for split in splits}
    checks = latent_checks(z for split in splits for z in data.latent_chunks(dataset, split))
    checks += balance_checks(linked, names)
    omega = np.asarray(model.omega)
    for level in spec.levels:
        used = {split: data.true_effects(dataset, level, split) for split in splits}
        together = np.concatenate([linked[split] for split in splits]), np.concatenate(list(used.values()))
        checks += association_checks(level, *together, names)
        checks += effect_checks(level, *together, omega, names)
        rows = slice(0, spec.settings.residual_subjects)
        observed = np.load(Path(outcomes[str(level)]["folder"]) / "train.npy", mmap_mode="r")[rows]
        checks += residual_checks(model, level, observed, used["train"][rows], spec.workers)
    failed = failures(checks)
    _write(where / "checks.json", [asdict(check) | {"passed": check not in failed} for check in checks])
    return _result(where, "checks.json")


@task(name="check-null", task_run_name="shuffled association", **CACHED)
def check_null(
    key: str, folder: str, spec: EvaluationSpec, level: float, images: Result, population: Result, effects: Result
) -> Result:
    """The whole prediction with every image given to another subject: there must be nothing to find."""
    where, model, settings = _made(folder), population_model(spec, population), spec.settings
    dataset = spec.dataset
    train, test = (np.load(Path(images["folder"]) / f"{split}.npy", mmap_mode="r") for split in ("train", "test"))
    modes, ids = np.load(Path(effects["folder"]) / "train.npy"), data.split_ids(dataset, "train")
    observed = np.load(Path(population["folder"]) / "train.npy", mmap_mode="r")
    found = shuffled(
        model, observed, train, modes, ids, test,
        truth=data.true_effects(dataset, level, "test"), true=data.true_effects(dataset, level, "train"),
        seed=dataset.manifest.seed, rounds=settings.rounds, folds=settings.folds, replicates=settings.bootstrap,
        workers=spec.workers,
    )  # fmt: skip
    _write(where / "null.json", {"level": level, "r2": {name: asdict(one) for name, one in found.items()}})
    return _result(where, "null.json")


def load_predictions(
    spec: EvaluationSpec,
    level: float,
    population: Result,
    effects: Result,
    predicted: Result,
    resnet: Result | None = None,
) -> tuple[Truth, Predictions]:
    """What is known of the test subjects of a level, and every source's random effects for them."""
    dataset, k = spec.dataset, len(spec.dataset.manifest.random_effects)
    ids = data.split_ids(dataset, "test")
    truth = Truth(
        level=level,
        ids=ids,
        eta=data.true_effects(dataset, level, "test"),
        linked=data.linked_effects(dataset, "test"),
        observed=np.load(Path(population["folder"]) / "test.npy").astype(np.float64),
        modes=np.load(Path(effects["folder"]) / "test.npy"),
        seed=dataset.manifest.seed,
    )
    drawn = normals(stream_key(dataset.manifest.seed, "evaluation-random", level), ids, k)
    omega = np.asarray(population_model(spec, population).omega)
    made = [predicted] if resnet is None else [predicted, resnet]
    paths = [Path(result["folder"]) / name for result in made for name in result["files"] if name.endswith(".npy")]
    sources = {path.stem: np.load(path) for path in paths}
    informed = _read(Path(predicted["folder"]) / "informed.json")
    return truth, Predictions(sources, drawn @ np.linalg.cholesky(omega).T, np.array(informed["omega"]))


def population_model(spec: EvaluationSpec, population: Result) -> PopulationModel:
    """The population model with the values of a fit."""
    figures = _read(Path(population["folder"]) / "population.json")
    values = PopulationParameters(*(np.array(figures[name]) for name in ("mu", "omega", "error")))
    return values.into(spec.model)


def true_values(model: PopulationModel) -> dict[str, float]:
    """The values of a model under the names of a fit's table."""
    coordinates = Coordinates(model, "full", ())
    values = coordinates.natural(coordinates.pack(PopulationParameters.of(model)))
    return dict(zip(coordinates.names, values.tolist(), strict=True))


def read_figures(result: Result, name: str) -> Any:
    """A JSON file that a stage left."""
    return _read(Path(result["folder"]) / name)


def _write_features(dataset: Dataset, split: str, reading: Reading, path: Path) -> list[float]:
    """What is read from a split's images as one .npy file, float32 (n, D); R² of each column to the latent entry."""
    n, done, sums = len(data.split_ids(dataset, split)), 0, np.zeros((3, dataset.manifest.image.latent_dim))
    out = np.lib.format.open_memmap(path.with_suffix(".tmp"), "w+", np.float32, (n, sums.shape[1]))
    progress = Progress(f"read {split} images", n, "images")
    for ids, images, z in data.image_chunks(dataset, split):
        found = reading(ids, images)
        out[done : done + len(found)] = found
        truth = z.astype(np.float64)
        sums += np.square(truth - found).sum(0), truth.sum(0), np.square(truth).sum(0)
        done += len(found)
        progress.update(done)
    out.flush()
    path.with_suffix(".tmp").replace(path)
    error, total, square = sums
    return (1 - error / (square - total**2 / n)).tolist()


def _made(folder: str) -> Path:
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _result(folder: Path, *names: str) -> Result:
    return {"folder": str(folder), "files": {name: file_sha256(folder / name) for name in names}}


def _intact(result: Result) -> bool:
    files = {Path(result["folder"]) / name: digest for name, digest in result["files"].items()}
    return all(path.exists() and file_sha256(path) == digest for path, digest in files.items())


def _write(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
