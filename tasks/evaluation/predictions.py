"""Stages from images to predicted random effects, and their scores."""

from pathlib import Path

import numpy as np
from prefect import task

from image_longitudinal.models.evaluation.bootstrap import Resampling
from image_longitudinal.models.evaluation.image_informed import TrainingSubjects
from image_longitudinal.models.evaluation.level_scores import HeldOutSubjects, Predictions, score_level
from image_longitudinal.models.evaluation.pca_regressor import fit_pca_regressor
from image_longitudinal.models.evaluation.predictors import fit_predictors, with_references
from image_longitudinal.models.evaluation.records import InformedFit, LatentReading, PopulationEstimate
from image_longitudinal.models.evaluation.resnet import train_resnet
from image_longitudinal.models.imaging.assembly import load_vae
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.quality.recoverability import encoder_reader
from image_longitudinal.tasks.engine.cache_keys import CACHED
from image_longitudinal.tasks.engine.gpu_slots import gpu_slots
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.evaluation import data
from image_longitudinal.tasks.evaluation.population import fitted_model
from image_longitudinal.tasks.evaluation.run import EvaluationRun, StageFiles, save_array
from image_longitudinal.tasks.evaluation.specs import PredictorSpec, ReadingSpec, ResNetSpec, ScoreSpec


@task(name="read-images", task_run_name="read z from images", **CACHED)
def read_latents(key: str, folder: Path, run: EvaluationRun, spec: ReadingSpec) -> StageFiles:
    """Latents read from every training and test image, once: the features of all predictors; R² on test images."""
    dataset, encoder = run.dataset, run.encoder("encoder") if spec.encoder else None
    with gpu_slots(run.compute):
        if encoder is not None:
            read = encoder_reader(load_vae(encoder).to(default_device(run.device)))
        else:
            size = {"components": spec.components or 0, "products": spec.products or 0}
            pca = fit_pca_regressor(lambda: data.image_chunks(dataset, "train"), **size)
        for split in ("train", "test"):
            n, done, sums = len(data.split_ids(dataset, split)), 0, np.zeros((3, dataset.manifest.image.latent_dim))
            progress, path, shape = (
                Progress(f"read {split} images", n, "images"),
                folder / f"{split}.npy",
                (n, sums.shape[1]),
            )
            out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            for ids, images, z in data.image_chunks(dataset, split):
                if encoder is not None:
                    found = read(images)
                else:  # of training subjects by fits without them
                    found = pca.out_of_fold(images, ids) if split == "train" else pca(images)
                out[done : done + len(found)] = found
                truth = z.astype(np.float64)
                sums += np.square(truth - found).sum(0), truth.sum(0), np.square(truth).sum(0)
                done += len(found)
                progress.update(done)
            out.flush()
    error, total, square = sums  # of the test images
    r2 = (1 - error / (square - total**2 / n)).tolist()
    LatentReading(regressor="encoder" if encoder else "pca", r2=r2).write(folder / "reading.json")
    return StageFiles.of(folder, "train.npy", "test.npy", "reading.json")


@task(name="predict-effects", task_run_name="images to random effects at {level}", **CACHED)
def predict_effects(
    key: str, folder: Path, run: EvaluationRun, spec: PredictorSpec, level: float, reading: StageFiles,
    population: StageFiles, estimates: StageFiles,
) -> StageFiles:  # fmt: skip
    """Fit the predictors to training subjects and predict the test subjects' random effects."""
    training = training_data(run, level, spec.folds, reading, population, estimates)
    predictors, informed = fit_predictors(*training, rounds=spec.rounds, workers=run.workers)
    features = reading.array("test")
    for name, predictor in predictors.items():
        save_array(folder / f"{name}.npy", predictor(features))
    InformedFit(omega=informed.omega.tolist(), objectives=informed.objectives).write(folder / "informed.json")
    return StageFiles.of(folder, *(f"{name}.npy" for name in predictors), "informed.json")


@task(name="train-resnet", task_run_name="ResNet18 on estimates at {level}", **CACHED)
def predict_by_resnet(
    key: str, folder: Path, run: EvaluationRun, spec: ResNetSpec, level: float, estimates: StageFiles
) -> StageFiles:
    """Train the published predictor, images → empirical Bayes estimates end to end, and predict test subjects."""
    dataset = run.dataset
    with gpu_slots(run.compute):
        predictor = train_resnet(
            data.SplitImages(dataset, "train"), np.load(estimates.path("train.npy")), spec.network,
            seed=dataset.manifest.seed, device=run.device, checkpoint=folder / "resnet.checkpoint",
            report=Progress(f"train resnet at {level:g}", spec.network.steps, "steps").of_training,
        )  # fmt: skip
        parts = [predictor(images) for _, images, _ in data.image_chunks(dataset, "test")]
    save_array(folder / "resnet.npy", np.concatenate(parts))
    return StageFiles.of(folder, "resnet.npy")


@task(name="score-predictions", task_run_name="score at {level}", **CACHED)
def score_predictors(
    key: str, folder: Path, run: EvaluationRun, spec: ScoreSpec, level: float, population: StageFiles,
    estimates: StageFiles, predictions: StageFiles, resnet: StageFiles | None,
) -> StageFiles:  # fmt: skip
    """All scores of one level."""
    truth, predicted = load_predictions(run, level, population, estimates, predictions, resnet)
    resampling, model = Resampling(len(truth.ids), truth.seed, spec.bootstrap), fitted_model(run, population)
    scores = score_level(
        model, truth, predicted, resampling=resampling, visits=spec.visits, known=run.model, workers=run.workers
    )
    fitted = PopulationEstimate.read(population.path("population.json"))
    objectives = InformedFit.read(predictions.path("informed.json")).objectives
    scores.model_copy(update={"population": fitted, "objectives": objectives}).write(folder / "scores.json")
    return StageFiles.of(folder, "scores.json")


def training_data(
    run: EvaluationRun, level: float, folds: int, reading: StageFiles, population: StageFiles, estimates: StageFiles
) -> tuple[PopulationModel, TrainingSubjects, data.Array]:
    """The fitted population model, the training subjects of a level, and their true random effects (n, k).

    Features and outcomes stay in their files.
    """
    subjects = TrainingSubjects(
        ids=data.split_ids(run.dataset, "train"), features=reading.array("train"), observed=population.array("train"),
        modes=np.load(estimates.path("train.npy")), folds=folds,
    )  # fmt: skip
    return fitted_model(run, population), subjects, data.read_effects(run.dataset, "train", level)


def load_predictions(
    run: EvaluationRun, level: float, population: StageFiles, estimates: StageFiles, predictions: StageFiles,
    resnet: StageFiles | None,
) -> tuple[HeldOutSubjects, Predictions]:  # fmt: skip
    """The test subjects of a level, and the random effects that every source gives them."""
    truth = data.held_out_subjects(
        run.dataset, level, np.load(population.path("test.npy")), np.load(estimates.path("test.npy"))
    )
    stages = [predictions] if resnet is None else [predictions, resnet]
    paths = [stage.path(name) for stage in stages for name in stage.files if name.endswith(".npy")]
    omega = np.array(InformedFit.read(predictions.path("informed.json")).omega)
    sources = {path.stem: np.load(path) for path in paths}
    return truth, Predictions(with_references(sources, truth, fitted_model(run, population).omega), omega)
