"""The data of single subjects from configuration, seed and id: to generate shards, and to check them later."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.config import Config, OutcomesConfig
from image_longitudinal.core.errors import ConfigError, ImageLongitudinalError
from image_longitudinal.core.presets import validate_config
from image_longitudinal.core.random import stream_key, subject_seeds
from image_longitudinal.models.design.association import associate, draw_latents, linked_effects, scale_effects
from image_longitudinal.models.imaging.backends import GeneratorDescription, describe, find_backend, needs_training
from image_longitudinal.models.imaging.interface import ImageModel, generate_in_batches
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.simulation.simulate import individual_parameters, observe, simulate
from image_longitudinal.models.nlme.simulation.visits import Visits
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.verify import Problem
from image_longitudinal.tasks.shards.image_shards import image_model
from image_longitudinal.tasks.shards.specs import Execution, ImageSpec, OutcomeSpec
from image_longitudinal.tasks.shards.study import acquire, designs_of, study_level

RELATIVE, ABSOLUTE = 1e-5, 1e-6  # exponentials differ in the last digits between machines
GREY_LEVELS = 1  # a network's rounding depends on the device and on the batch
SHIFTED_LEVELS = 4  # a site's contrast multiplies it


class LevelOutcomes(NamedTuple):
    """Subjects at one association level: eta (n, k), individual parameters (n,) by name, dv (n, T).

    ``visits``: each subject's visit times and whether it was observed, (n, T) both; None if all keep the planned times.
    """

    eta: NDArray[np.float64]
    parameters: dict[str, NDArray[np.float64]]
    dv: NDArray[Any]
    visits: tuple[NDArray[np.float64], NDArray[np.bool_]] | None


def linked_to_latents(
    latents: NDArray[np.float32], eta_dims: tuple[int, ...], outcomes: OutcomesConfig
) -> NDArray[np.float64]:
    """Random effects linked to latents (n, D) of images: float64 (n, k)."""
    return scale_effects(linked_effects(latents, eta_dims), get_model(outcomes.model).omega)


def outcomes_at(
    level: float, linked: NDArray[np.float64], outcomes: OutcomesConfig, seed: int, ids: ArrayLike
) -> LevelOutcomes:
    """Random effects, individual parameters and outcomes of subjects ``ids`` at one association level."""
    model = get_model(outcomes.model)
    doses = given_doses(outcomes.given)
    eta = associate(linked, level, omega=model.omega, seed=seed, ids=ids)
    parameters = individual_parameters(model, eta)
    visits = visits_of(outcomes).draw(seed, ids) if outcomes.irregular else None  # the same at every level
    times = outcomes.times if visits is None else visits[0]
    prediction = simulate(model, eta, times, doses, ids=ids)
    dv = observe(model, prediction, key=stream_key(seed, "residual", float(level)), ids=ids)
    return LevelOutcomes(
        eta, {name: parameters[:, column].copy() for column, name in enumerate(model.parameter_names)}, dv, visits
    )


def given_doses(doses: Iterable[tuple[float, float, int, float]]) -> list[Dose]:
    """Doses for the simulation from (time, amount, compartment, rate)."""
    return [Dose(time, amt, cmt, amt / rate if rate else 0.0) for time, amt, cmt, rate in doses]


def visits_of(outcomes: OutcomesConfig) -> Visits:
    """The visit schedule of a configuration."""
    fixed = tuple(dose[0] for dose in outcomes.given)
    return Visits(outcomes.times, fixed, outcomes.jitter, outcomes.missed, outcomes.dropout)


def rederive(dataset: Dataset, ids: NDArray[np.int64], workspace: str) -> tuple[list[Problem], str | None]:
    """Regenerate subjects ``ids`` from the recorded configuration and compare: finds what hashes and shapes cannot.

    The files of the data set are as recorded; ``workspace`` may have its image model. Returns a problem for each file
    that differs, and what was not compared and why, if anything. Code that the data set names does not run.
    """
    try:
        config = validate_config(dataset.manifest.config, where=dataset.root.url)
        get_model(config.outcomes.model)
    except ConfigError as error:  # of another version, or of a user's own model: its files can still be checked
        return [], f"no subject was regenerated: {error}"
    latents = draw_latents(config.seed, ids, dataset.manifest.image.latent_dim)
    model, why_not = _model_of(dataset, config, workspace)
    images = None
    if model:
        images = generate_in_batches(model, latents, subject_seeds(config.seed, ids), len(ids))
    recorded = dataset.manifest
    study = None
    if recorded.study is not None:
        study = OutcomeSpec.of(config, recorded.image.latent_dim, recorded.study.eta_dims)
    if images is not None and study is not None:
        generator = GeneratorDescription(recorded.image.digest, recorded.image.height, recorded.image.latent_dim)
        images = acquire(ImageSpec.of(config, generator).at_sites(study), images, ids)
    problems: dict[str, Problem] = {}
    for row, subject_id in enumerate(ids.tolist()):
        image = None if images is None else images[row]
        for path, what, equal in _comparisons(dataset, config, subject_id, latents[row : row + 1], image, study):
            if not equal:
                different = f"{what} of subject {subject_id} differs from its regeneration"
                problems.setdefault(path, Problem(path, different, subject_id // dataset.plan.shard_size))
    return list(problems.values()), why_not


def _comparisons(
    dataset: Dataset, config: Config, subject_id: int, latent: NDArray[np.float32], image: NDArray[np.uint8] | None,
    study: OutcomeSpec | None,
) -> Iterator[tuple[str, str, bool]]:  # fmt: skip
    """File, content, and whether it equals the regenerated one; ``study``: the spec of a data set with a design."""
    seed, shard, ids = config.seed, subject_id // dataset.plan.shard_size, np.array([subject_id])
    split = dataset.plan.split_of(subject_id)
    subject = dataset.subject(subject_id)
    eta_dims = dataset.manifest.eta_latents if study is None else study.eta_dims
    # If each η mixes several dimensions, the manifest does not list them: start from the recorded η.
    linked = subject.linked_eta[None] if eta_dims is None else linked_to_latents(latent, eta_dims, config.outcomes)
    table = dataset.manifest.table_path("subjects", shard, split)
    yield layout.latent_shard_path(shard), "latent", _almost(subject.latent, latent[0])
    yield table, "seed", subject.seed == subject_seeds(seed, ids)[0]
    yield table, "random effects", _almost(subject.linked_eta, linked[0])
    if image is not None:
        seen = dataset.images[subject_id].astype(int)
        most = GREY_LEVELS if study is None else SHIFTED_LEVELS
        yield layout.image_shard_path(shard), "image", np.abs(seen - image).max() <= most
    if study is not None:
        own = study_level(designs_of(study)[0], ids).own
        row = dataset.rows("subjects", None, subject_id)
        yield table, "study", all(_almost(row[name].to_numpy(), values) for name, values in own.items())
    for level in dataset.levels:
        made = _study_outcomes(study, level, ids) if study else outcomes_at(level, linked, config.outcomes, seed, ids)
        path = dataset.manifest.table_path("random_effects", shard, split, level)
        yield path, "random effects", _almost(dataset.used_eta(level)[subject_id : subject_id + 1], made.eta)
        recorded = subject.random_effects[level]
        equal = all(_almost(recorded[name].to_numpy(), values) for name, values in made.parameters.items())
        yield path, "individual parameters", equal
        path = dataset.manifest.table_path("observations", shard, split, level)
        dv = made.dv if made.visits is None else np.where(made.visits[1], made.dv, np.nan)
        yield path, "outcomes", _almost(dataset.outcomes(level)[subject_id : subject_id + 1], dv)


def _study_outcomes(study: OutcomeSpec, level: float, ids: NDArray[np.int64]) -> LevelOutcomes:
    """Subjects of a study at one of its association levels, under the arms that they take."""
    design = designs_of(study.model_copy(update={"association": (level,)}))[0]
    made = study_level(design, ids)
    values, dv = made.potential.taken(made.subjects.arm)
    named = {name: values[:, i] for i, name in enumerate(design.model.parameter_names)}
    return LevelOutcomes(made.subjects.eta, named, dv, made.potential.visits)


def _model_of(dataset: Dataset, config: Config, workspace: str) -> tuple[ImageModel | None, str | None]:
    """The image model that generated the data set, or why it is not available."""
    recorded = dataset.manifest.image
    execution = Execution(
        workspace=workspace,
        generator=config.generator,
        model_version=recorded.model if needs_training(config.generator.backend) else None,
        compute=config.compute,
    )
    try:
        find_backend(config.generator.backend)
        if describe(config.generator, execution.version()).digest != recorded.digest:
            return None, f"images were not regenerated: another model is available, not theirs ({recorded.digest[:12]})"
        return image_model(execution), None
    except ImageLongitudinalError as error:
        return None, f"images were not regenerated, since their model is not available: {error}"


def _almost(seen: ArrayLike, made: ArrayLike) -> bool:
    return np.allclose(seen, made, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
