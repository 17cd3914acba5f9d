"""What images explain in a finished fit: a section of fit.json, g as a file, and a table of predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ConfigError, StorageError
from image_longitudinal.core.files import replacing
from image_longitudinal.models.evaluation.bootstrap import Estimate
from image_longitudinal.models.image_effects.evidence import By
from image_longitudinal.models.image_effects.explained import PermutationNull, explained_shares, permutation_null
from image_longitudinal.models.image_effects.fitting import ImageEffects, check_subjects, fit_image_effects
from image_longitudinal.models.image_effects.learners import Learner
from image_longitudinal.models.image_effects.linear_head import LinearHead, LinearLearner
from image_longitudinal.models.image_effects.network_head import NetworkHead, NetworkLearner
from image_longitudinal.models.image_effects.prediction import EffectPredictions, by_prior, with_visits
from image_longitudinal.models.image_effects.predictor import ImagePredictor
from image_longitudinal.models.image_effects.subject_images import PrincipalComponents, SubjectImages
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.ebes import individual_modes
from image_longitudinal.models.nlme.estimation.results import load_fit
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.storage.scans.subject_pictures import SubjectPictures, find_subject_pictures
from image_longitudinal.tasks.engine.progress import Progress, run_logger
from image_longitudinal.tasks.population.image_summary import ExplainedShare, ImageSummary
from image_longitudinal.tasks.population.inputs import model_to_fit, observations_of, population_of, spec_of
from image_longitudinal.tasks.population.options import FitOptions, ImageSpec
from image_longitudinal.tasks.population.subject_images import ReadImages, check_contrast, read_subject_images
from image_longitudinal.tasks.population.summary import (
    IMAGE_EFFECTS,
    IMAGE_PREDICTOR,
    REPORT,
    RESULTS,
    read_summary,
)
from image_longitudinal.tasks.workspace import Workspace

SAMPLED = ("imp", "saem", "agq")  # methods whose fits are followed by likelihoods from draws
_KEEP = "replace it with --overwrite (in Python: overwrite=True), or name another folder"


def likelihood_of(method: str) -> By:
    """How the likelihood with images is approximated after a fit by a method: as the fit did."""
    return "imp" if method in SAMPLED else "focei"


def checked_images(options: FitOptions, output: str) -> ReadImages | None:
    """The images of the subjects, read before any fit; None if the options have none, or the folder their result.

    Raises:
        ConfigError: options that do not fit together, a model without random effects, too few subjects.
        StorageError: images and ids that do not fit together, or an image that cannot be used.
    """
    if options.images is None:
        if options.image_list or options.id_column or options.image_encoder:
            raise ConfigError("options of images without images", do="name their folder (--images)")
        return None
    if options.method == "nuts":
        raise ConfigError("images are learned after a fit by maximum likelihood", got="nuts", do="take imp or saem")
    if options.image_model == "cnn" and options.image_encoder:
        raise ConfigError("a network of pixels reads no features", do="leave --image-encoder out, or take mlp")
    model = model_to_fit(options.model_copy(update={"start": {}}))
    if model.structural.likelihood is not None:
        what = "images are learned with endpoints that have residual error"
        raise ConfigError(what, where=f"model {model.name!r}", got="a likelihood")
    table, done = observations_of(options, model), read_summary(Path(output))
    data = population_of(options, table)
    pictures = pictures_of(options, data)
    key = image_spec(options, spec_of(options, table).digest, pictures).digest
    if done and done.images and done.images.key == key and (Path(output) / REPORT).exists():
        run_logger().info("cache hit: what images explain is known")
        return None
    read = read_subject_images(pictures, encoder=options.image_encoder, workspace=options.workspace)
    check_contrast(read, pictures.names)
    check_subjects(model, data, _learner(options, features_of(read, options)[1]))
    return read


def pictures_of(options: FitOptions, data: PopulationData) -> SubjectPictures:
    """The images of the subjects of a table; those of others are an error, unless only some subjects are fitted."""
    assert options.images is not None
    return find_subject_pictures(
        options.images, data.names.tolist(), listed=options.image_list, id_column=options.id_column,
        others=options.subjects is not None,
    )  # fmt: skip


def add_images(options: FitOptions, images: ReadImages | None, output: str, workers: int, overwrite: bool) -> bool:
    """Learn what images explain and add it to the folder of a finished fit; whether anything was made.

    Raises:
        StorageError: the folder holds the result of other images or options, not to be overwritten.
    """
    if images is None:
        return False
    folder = Path(output)
    summary = read_summary(folder)
    assert summary is not None
    model = model_to_fit(options.model_copy(update={"start": {}}))
    data = population_of(options, observations_of(options, model))
    key = image_spec(options, summary.key, pictures_of(options, data)).digest
    if summary.images is not None and summary.images.key != key and not overwrite:
        raise StorageError("the folder holds a result of other images", where=folder, do=_KEEP)
    fitted = load_fit(folder / RESULTS, model).model
    by = likelihood_of(options.method)
    reader, features = features_of(images, options)
    learner = _learner(options, features)
    rounds = Progress("learn from images", 4, "rounds at most")
    found = fit_image_effects(
        fitted, data, learner, learning=options.image_learning, by=by, workers=workers,
        report=lambda done, objective: rounds.update(done, f"held-out -2 log L {objective:.2f}"),
    )  # fmt: skip
    modes = individual_modes(fitted, data, n_threads=workers).eta if options.image_learning == "two-step" else None
    null = permutation_null(
        found, learner, learning=options.image_learning, permutations=options.permutations, seed=options.seed,
        estimates=modes,
    )  # fmt: skip
    head = found.head
    assert isinstance(head, LinearHead | NetworkHead)
    names = fitted.random_effect_names
    predictor = ImagePredictor(
        reader, head, found.omega, found.total, names, options.image_encoder, images.size, by
    )  # fmt: skip
    own = _summary(key, options, images, reader, names, found, null, explained_shares(found, seed=options.seed))
    predictor.save(folder / IMAGE_PREDICTOR)
    image = by_prior(fitted, found.held_out, found.omega)
    visits = with_visits(fitted, data, found.held_out, found.omega, by=by, workers=workers)
    write_predictions(folder / IMAGE_EFFECTS, fitted, data.names, {"image": image, "image+visits": visits})
    summary.model_copy(update={"images": own}).write(folder)
    return True


def image_spec(options: FitOptions, fit_key: str, pictures: SubjectPictures) -> ImageSpec:
    """The spec whose digest is the cache key of what images explain."""
    encoder = options.image_encoder
    return ImageSpec(
        fit=fit_key, content=digest_of(*pictures.content, pictures.owner.tolist()),
        encoder=Workspace.at(options.workspace).model(encoder).version if encoder else None,
        image_model=options.image_model, image_learning=options.image_learning, permutations=options.permutations,
        seed=options.seed,
    )  # fmt: skip


def features_of(
    images: ReadImages, options: FitOptions
) -> tuple[PrincipalComponents | None, SubjectImages | NDArray[np.float64]]:
    """What reads features, if anything does, and what the learner takes."""
    if not isinstance(images.inputs, SubjectImages) or options.image_model == "cnn":
        return None, images.inputs
    reader = PrincipalComponents.of(images.inputs)
    return reader, reader(images.inputs)


def _learner(options: FitOptions, features: SubjectImages | NDArray[np.float64]) -> Learner:
    if options.image_model == "linear":
        assert not isinstance(features, SubjectImages)
        return LinearLearner(features, seed=options.seed)
    return NetworkLearner(features, seed=options.seed)


def _summary(
    key: str, options: FitOptions, images: ReadImages, reader: PrincipalComponents | None, names: tuple[str, ...],
    found: ImageEffects, null: PermutationNull, shares: list[Estimate],
) -> ImageSummary:  # fmt: skip
    inputs = images.inputs
    subjects = len(found.held_out)
    if reader is not None:
        features = f"{reader.axes.shape[1]} principal components"
    elif isinstance(inputs, SubjectImages):
        features = f"{inputs.pixels.shape[1]}x{inputs.pixels.shape[2]} pixels"
    else:
        features = f"{inputs.shape[1]} features of {options.image_encoder}"
    explained = {}
    for i, (name, share) in enumerate(zip(names, shares, strict=True)):
        own = null.shares[:, i]
        chance = (float(own.min()), float(np.median(own)), float(own.max())) if len(own) else None
        explained[name] = ExplainedShare(
            share=share.value, low=share.low, high=share.high, omega2=float(found.total[i, i]),
            left=float(found.omega[i, i]), null=chance,
        )  # fmt: skip
    return ImageSummary(
        key=key, images=len(inputs.pixels) if isinstance(inputs, SubjectImages) else subjects, subjects=subjects,
        features=features, model=options.image_model, learning=options.image_learning, objectives=found.objectives,
        gain=found.gain, shares=explained, omega=tuple(map(tuple, found.omega.tolist())),
        permutations=len(null.gains), one_round=null.gain if len(null.gains) else None,
        null_gain=float(null.gains.max()) if len(null.gains) else None, p=null.p if len(null.gains) else None,
    )  # fmt: skip


def write_predictions(
    path: Path, model: PopulationModel, ids: NDArray[Any], predictions: dict[str, EffectPredictions]
) -> None:
    """A table with a row for each subject and source: id, source, random effects, their ``sd_``, parameters.

    A CSV file if it ends in .csv, else Parquet.
    """
    tables = []
    for source, own in predictions.items():
        columns: dict[str, Any] = {"id": ids, "source": [source] * len(ids)}
        columns |= {name: own.eta[:, i] for i, name in enumerate(model.random_effect_names)}
        columns |= {f"sd_{name}": own.sd[:, i] for i, name in enumerate(model.random_effect_names)}
        columns |= {name: own.parameters[:, i] for i, name in enumerate(model.parameter_names)}
        tables.append(pa.table(columns))
    whole = pa.concat_tables(tables)
    with replacing(path) as temporary:
        if path.suffix.lower() == ".csv":
            import pyarrow.csv as pacsv

            pacsv.write_csv(whole, temporary)
        else:
            pq.write_table(whole, temporary)
