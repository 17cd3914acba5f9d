"""Simulation of a population: random effects → individual parameters → predictions → observations.

Every function is pure and works row by row: a subject's numbers depend on its own row (and, for noise, on its id and
the stream's key), never on the other rows of the call. Any chunking and any number of workers give the same bits.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import ConfigError, SimulationError
from core.random import normals
from models.nlme.dosing import Dose, Schedule, observation_times
from models.nlme.library import get_model, known_models
from models.nlme.population import PopulationModel
from models.nlme.structural import StructuralModel

__all__ = ["Dose", "get_model", "individual_parameters", "known_models", "observe", "simulate"]

FloatArray = NDArray[np.float64]
Kernel = Callable[..., int]


def individual_parameters(model: PopulationModel, eta: ArrayLike) -> FloatArray:
    """Individual parameters from random effects.

    Args:
        model: the population model.
        eta: random effects, (n, k), in the order of ``model.random_effect_names``.

    Returns:
        float64, (n, p), in the order of ``model.parameter_names``.

    Raises:
        ConfigError: ``eta`` does not have k columns.
    """
    eta = np.ascontiguousarray(eta, dtype=np.float64)
    if eta.ndim != 2 or eta.shape[1] != model.n_random_effects:
        raise ConfigError(
            f"random effects do not fit model {model.name!r}",
            expected=f"shape (n, {model.n_random_effects})",
            got=eta.shape,
        )
    values = np.empty((len(eta), model.n_parameters))
    column = 0
    for index, parameter in enumerate(model.parameters):
        if parameter.random:
            # a contiguous copy: NumPy may round exp differently on strided data, and the bits must not depend on layout
            values[:, index] = parameter.individual(np.ascontiguousarray(eta[:, column]), np.exp)
            column += 1
        else:
            values[:, index] = parameter.typical
    return values


def simulate(
    model: PopulationModel,
    eta: ArrayLike,
    times: ArrayLike | None = None,
    doses: Sequence[Dose] | None = None,
    *,
    ids: ArrayLike | None = None,
    workers: int = 1,
) -> FloatArray:
    """Noise-free predictions of subjects that share one design.

    An observation at the time of a dose sees the dose. Before the first dose the amounts are zero (or the model's own
    initial values).

    Args:
        model: the population model.
        eta: random effects, (n, k).
        times: observation times, (T,), ascending; the model's default if None.
        doses: the doses; the model's default if None.
        ids: subject ids, (n,), only to name a subject in an error; row numbers if None.
        workers: threads; the result is the same for any number.

    Returns:
        float64, (n, T).

    Raises:
        ConfigError: η, times or doses do not fit the model.
        SimulationError: random effects that are not finite, or a subject whose equation could not be integrated.
    """
    eta = np.ascontiguousarray(eta, dtype=np.float64)
    parameters = individual_parameters(model, eta)
    at = observation_times(model.design.times if times is None else times)
    schedule = Schedule.of(model.design.doses if doses is None else doses, model.structural)
    before = np.searchsorted(schedule.when, at, side="right").astype(np.int64)
    kernel = kernel_of(model.structural)
    out = np.empty((len(eta), len(at)))

    def run(start: int, stop: int) -> int:
        failed = kernel(
            parameters[start:stop],
            schedule.when,
            schedule.bolus,
            schedule.rate,
            schedule.amount or 1.0,
            at,
            before,
            out[start:stop],
        )
        return -1 if failed < 0 else start + failed

    bad = np.flatnonzero(~(np.isfinite(parameters).all(axis=1) & np.isfinite(eta).all(axis=1)))
    failed = int(bad[0]) if len(bad) else _run_in_threads(run, len(eta), workers)
    if failed >= 0:
        subject = failed if ids is None else np.asarray(ids)[failed]
        values = ", ".join(f"{k}={v:.6g}" for k, v in zip(model.parameter_names, parameters[failed], strict=True))
        raise SimulationError(
            f"model {model.name!r} could not be integrated",
            where=f"subject {subject}",
            expected="finite parameters and a convergent solution",
            got=values,
        )
    return out


def observe(model: PopulationModel, prediction: ArrayLike, *, key: int, ids: ArrayLike) -> FloatArray:
    """Observations: predictions plus residual error drawn from each subject's own stream.

    Args:
        model: the population model.
        prediction: noise-free predictions, (n, T).
        key: stream key (:func:`core.random.stream_key`).
        ids: subject ids, (n,): the noise of a subject depends on key, id and position alone.

    Returns:
        float64, (n, T).
    """
    prediction = np.ascontiguousarray(prediction, dtype=np.float64)
    if not prediction.size:
        return prediction.copy()
    return model.residual.scatter(prediction, normals(key, ids, prediction.shape[1]))


def kernel_of(model: StructuralModel) -> Kernel:
    """The compiled solver of a structural model: hand-made where it names one, generated otherwise."""
    if model.kernel is None:
        from models.nlme.codegen import generated_kernel  # imports PyTensor, which takes a second

        return generated_kernel(model).solve
    module, _, function = model.kernel.partition(":")
    return getattr(importlib.import_module(module), function)


def _run_in_threads(run: Callable[[int, int], int], n: int, workers: int) -> int:
    """Cover 0..n in pieces on ``workers`` threads (the kernels release the GIL); the first failed row or -1."""
    if workers <= 1 or n < 2:
        return run(0, n) if n else -1
    cuts = np.linspace(0, n, min(n, 4 * workers) + 1).astype(int)
    with ThreadPoolExecutor(workers) as pool:
        failed = [row for row in pool.map(run, cuts[:-1], cuts[1:]) if row >= 0]
    return min(failed, default=-1)
