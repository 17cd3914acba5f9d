"""Per subject, how well random effects explain outcomes: squared errors, conditional likelihoods, forecasts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.random import stream_key
from image_longitudinal.models.evaluation.offset_objective import informed_modes
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate

FloatArray = NDArray[np.float64]


def squared_error(
    model: PopulationModel, observed: NDArray[np.floating], eta: FloatArray, workers: int = 1
) -> FloatArray:
    """Mean over visits of (outcome - prediction at η)², (n,); observed (n, T), η (n, k)."""
    return np.asarray(np.square(observed - simulate(model, eta, n_threads=workers)).mean(1))


def conditional_nll(
    model: PopulationModel, observed: NDArray[np.floating], eta: FloatArray, workers: int = 1
) -> FloatArray:
    """-log p(observed | η) over all visits, (n,); observed (n, T), η (n, k)."""
    prediction, seen = simulate(model, eta, n_threads=workers), np.asarray(observed, np.float64)
    sd = np.maximum(model.residual.standard_deviation(prediction), 1e-12)
    jacobian = 0.0
    if model.residual.kind == "log-normal":
        prediction, seen = np.log(np.maximum(prediction, 1e-300)), np.log(seen)
        jacobian = seen.sum(1)
    terms = 0.5 * np.square((seen - prediction) / sd) + np.log(sd) + 0.5 * np.log(2 * np.pi)
    return np.asarray(terms.sum(1) + jacobian)


def simulated_nll(
    model: PopulationModel, known: PopulationModel, eta: FloatArray, true: FloatArray, *, seed: int, stage: str,
    ids: NDArray[np.int64], workers: int = 1,
) -> FloatArray:  # fmt: skip
    """The published figure: outcomes *simulated* from η by ``model``, scored under ``known`` at the true effects, (n,).

    It says whether a simulated population could come from the true one; it scores no observed outcome.
    """
    key = stream_key(seed, "evaluation-simulated", stage)
    drawn = observe(model, simulate(model, eta, n_threads=workers), key=key, ids=ids)
    return conditional_nll(known, drawn, true, workers)


def informative_visits(model: PopulationModel) -> NDArray[np.int64]:
    """Positions of the visits after the first dose; earlier ones carry no information."""
    first = min((dose.time for dose in model.design.doses), default=-np.inf)
    return np.flatnonzero(np.asarray(model.design.times) > first)


def forecast(
    model: PopulationModel, observed: NDArray[np.floating], mean: FloatArray, visits: Sequence[int],
    workers: int = 1,
) -> dict[int, tuple[FloatArray, FloatArray]]:  # fmt: skip
    """Forecasts of later outcomes from the prior N(mean, Ω) and the first k visits after the dose.

    Args:
        model: population model; its Ω is the prior's.
        observed: outcomes (n, T).
        mean: of the prior, (n, k): the prediction from the image, or zeros without an image.
        visits: the numbers of visits, ascending; all forecasts are of the visits after the largest of them.
        workers: threads.

    Returns:
        By number of visits: mean squared error over the later visits (n,), and the mode of η (n, k).
    """
    known = informative_visits(model)
    later = known[max(visits) :]
    result = {}
    for count in visits:
        eta = mean
        if count:
            eta = informed_modes(model, observed, mean, columns=known[:count], workers=workers).eta
        prediction = simulate(model, eta, n_threads=workers)
        result[count] = (np.square(np.asarray(observed)[:, later] - prediction[:, later]).mean(1), eta)
    return result
