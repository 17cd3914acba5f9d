"""What the configuration says about a subject, from seed and id alone: to make shards, and to check them later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.config import Config, OutcomesConfig
from image_longitudinal.core.errors import ConfigError, ImageLongitudinalError
from image_longitudinal.core.presets import validate_config
from image_longitudinal.core.random import stream_key, subject_seeds
from image_longitudinal.models.design.association import associate, draw_latents, linked_effects, scale_effects
from image_longitudinal.models.imaging.backends import generate_in_batches, needs_training
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.simulation.simulate import individual_parameters, observe, simulate
from image_longitudinal.models.nlme.simulation.visits import Visits
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.verify import Problem
from image_longitudinal.tasks.shards.image_shards import image_model

RELATIVE, ABSOLUTE = 1e-5, 1e-6  # another machine's exponentials differ in the last digits
GREY_LEVELS = 1  # a network's arithmetic differs with the device and the subjects drawn together


class LevelOutcomes(NamedTuple):
    """Subjects at one association level: eta (n, k), named individual parameters (n,) each, dv (n, T).

    ``visits``: each subject's times and whether it was seen then, (n, T) both; None where all keep the planned times.
    """

    eta: NDArray[np.float64]
    parameters: dict[str, NDArray[np.float64]]
    dv: NDArray[Any]
    visits: tuple[NDArray[np.float64], NDArray[np.bool_]] | None


def linked_to_latents(
    latents: NDArray[np.float32], entries: tuple[int, ...], outcomes: OutcomesConfig
) -> NDArray[np.float64]:
    """Random effects linked to the images of latents (n, D): float64 (n, k)."""
    return scale_effects(linked_effects(latents, entries), get_model(outcomes.model).omega)


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
    """Doses for the engine from (time, amount, compartment, rate)."""
    return [Dose(time, amt, cmt, amt / rate if rate else 0.0) for time, amt, cmt, rate in doses]


def visits_of(outcomes: OutcomesConfig) -> Visits:
    """The visit schedule of a configuration."""
    fixed = tuple(dose[0] for dose in outcomes.given)
    return Visits(outcomes.times, fixed, outcomes.jitter, outcomes.missed, outcomes.dropout)


def rederive(dataset: Dataset, ids: NDArray[np.int64], workspace: str) -> tuple[list[Problem], str | None]:
    """Make some subjects again from the recorded configuration and compare: what hashes and shapes cannot tell.

    Args:
        dataset: its files are as recorded.
        ids: the subjects, int64.
        workspace: where the registered image model may lie.

    Returns:
        A problem for each file that holds something else, and what was left out and why, if anything was.
    """
    try:
        config = validate_config(dataset.manifest.config, where=dataset.root.url)
    except ConfigError as error:  # of another version: its files can still be checked
        return [], f"no subject was made again: {error}"
    latents = draw_latents(config.seed, ids, dataset.manifest.image.latent_dim)
    model, why_not = _model_at_hand(dataset, config, workspace)
    images = None
    if model:
        images = generate_in_batches(model, latents, subject_seeds(config.seed, ids), len(ids))
    problems: dict[str, Problem] = {}
    for row, subject_id in enumerate(ids.tolist()):
        for path, what, fits in _comparisons(dataset, config, subject_id, latents[row : row + 1]):
            if not fits:
                problems.setdefault(path, _other(path, what, subject_id, dataset))
        if images is not None:
            seen = dataset.images(subject_id, subject_id + 1)[0]
            path = layout.image_shard_path(subject_id // dataset.plan.shard_size)
            if np.abs(seen.astype(int) - images[row]).max() > GREY_LEVELS:
                problems.setdefault(path, _other(path, "image", subject_id, dataset))
    return list(problems.values()), why_not


Comparison = tuple[str, str, bool]  # path, what, whether it is as derived


def _comparisons(dataset: Dataset, config: Config, subject_id: int, latent: NDArray[np.float32]) -> list[Comparison]:
    seed, shard, ids = config.seed, subject_id // dataset.plan.shard_size, np.array([subject_id])
    split = dataset.plan.split_of(subject_id)
    subject = dataset.subject(subject_id)
    entries = dataset.manifest.eta_latents
    # Where η is a mixture of entries the manifest does not name them: then the recorded η is the start.
    linked = subject.eta[None] if entries is None else linked_to_latents(latent, entries, config.outcomes)
    table = layout.subjects_path(shard, split)
    found: list[Comparison] = [
        (layout.latent_shard_path(shard), "latent", _almost(subject.latent, latent[0])),
        (table, "seed", bool(subject.seed == subject_seeds(seed, ids)[0])),
        (table, "random effects", _almost(subject.eta, linked[0])),
    ]
    for level in dataset.levels:
        made = outcomes_at(level, linked, config.outcomes, seed, ids)
        effects = dataset.effects(level, subject_id, subject_id + 1)
        parameters = subject.random_effects[level]
        outcomes = dataset.outcomes(level, subject_id, subject_id + 1)
        path = layout.random_effects_path(level, shard, split)
        found += [
            (path, "random effects", _almost(effects, made.eta)),
            (
                path,
                "individual parameters",
                all(_almost(parameters[name].to_numpy(), values) for name, values in made.parameters.items()),
            ),
            (
                layout.observations_path(level, shard, split),
                "outcomes",
                _almost(outcomes, made.dv if made.visits is None else np.where(made.visits[1], made.dv, np.nan)),
            ),
        ]
    return found


def _model_at_hand(dataset: Dataset, config: Config, workspace: str) -> tuple[Any, str | None]:
    """The image model that made the data set, or why there is none."""
    recorded = dataset.manifest.image
    version = recorded.model if needs_training(config.generator.backend) else None
    try:
        model = image_model(workspace, version, config.generator, config.compute.device)
    except ImageLongitudinalError as error:
        return None, f"images were not drawn again, for their model is not at hand: {error}"
    if model.digest != recorded.digest:
        return None, f"images were not drawn again: the model at hand is not theirs ({recorded.digest[:12]})"
    return model, None


def _almost(seen: ArrayLike, made: ArrayLike) -> bool:
    return np.allclose(seen, made, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)


def _other(path: str, what: str, subject_id: int, dataset: Dataset) -> Problem:
    return Problem(path, f"{what} of subject {subject_id} made again is another", subject_id // dataset.plan.shard_size)
