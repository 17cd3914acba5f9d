"""Nonparametric bootstrap of a fit: subjects drawn with replacement, fitted again from the fit's estimates.

Replicate i is a function of data, fit, seed, strata and i alone, so replicates may be made by any number of threads, in
any order, and later ones added (Efron & Tibshirani 1993; for mixed-effects models Thai et al. 2013, Pharm Stat 12:129).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.random import stream_key, uniforms
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.intervals.refits import Refit, tried

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
LEVELS = (2.5, 97.5)
FEWEST = 40  # replicates for an interval: with fewer, 2.5 % of them are none


@dataclass(frozen=True)
class Replicate:
    """One refit. ``estimates`` in the order of the fit's names, empty without a fit; ``problem`` is empty if it counts.

    A refit that did not converge has both: it does not count for intervals.
    """

    number: int
    estimates: tuple[float, ...]
    objective: float
    problem: str


@dataclass(frozen=True)
class BootstrapRow:
    """What the replicates say of one estimate; None where there are too few of them.

    ``bias``: mean of the replicates minus the estimate. ``standard_error``: their standard deviation. ``lower``,
    ``median``, ``upper``: percentiles 2.5, 50 and 97.5.
    """

    name: str
    estimate: float
    bias: float | None = None
    standard_error: float | None = None
    lower: float | None = None
    median: float | None = None
    upper: float | None = None


def drawn_subjects(n: int, seed: int, number: int, strata: Sequence[str] = ()) -> IntArray:
    """Positions (n,) of the subjects of a replicate: as many from each stratum as it has.

    Args:
        n: number of subjects.
        seed, number: of the bootstrap and the replicate.
        strata: label of each subject, (n,); none: all subjects are one stratum.
    """
    own = np.asarray(strata or [""] * n)
    positions = np.arange(n)
    uniform = uniforms(stream_key(seed, "bootstrap", number), positions, 1)[:, 0]
    for label in np.unique(own):
        members = np.flatnonzero(own == label)
        positions[members] = members[(uniform[members] * len(members)).astype(np.int64)]
    return positions


def bootstrap(
    found: Fit, data: PopulationData, refit: Refit, numbers: Sequence[int], *, seed: int = 1,
    strata: Sequence[str] = (), n_threads: int = 1,
) -> Iterator[Replicate]:  # fmt: skip
    """The replicates with these numbers, each as soon as it is finished.

    Args:
        found: the fit, whose estimates are the start.
        data: the subjects that were fitted.
        refit: fits as ``found`` was fitted.
        numbers: which replicates; 0, 1, ..., 499 for 500.
        seed: of the resampling.
        strata: label of each subject, within which subjects are drawn; none: one stratum.
        n_threads: replicates at a time; no replicate depends on it.

    Raises:
        ConfigError: no estimates, or labels of another number of subjects.
    """
    if not found.names:
        raise ConfigError("nothing was estimated", do="leave the bootstrap out")
    if strata and len(strata) != len(data):
        raise ConfigError("strata of other subjects", expected=f"{len(data)} labels", got=len(strata))

    def one(number: int) -> Replicate:
        again = tried(refit, found.model, data.take(drawn_subjects(len(data), seed, number, strata)))
        if isinstance(again, str):
            return Replicate(number, (), float("nan"), again)
        problem = "" if again.converged else f"not converged: {again.message}"
        return Replicate(number, tuple(again.estimates.tolist()), again.objective, problem)

    with ThreadPoolExecutor(max(1, n_threads)) as pool:
        waiting = [pool.submit(one, number) for number in numbers]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:  # also when the caller stops: what has not begun does not begin
            pool.shutdown(wait=False, cancel_futures=True)


def bootstrap_rows(found: Fit, replicates: Sequence[Replicate]) -> tuple[BootstrapRow, ...]:
    """Standard errors and percentile intervals from the replicates that converged, a row per estimate."""
    own = np.array([one.estimates for one in replicates if not one.problem]).reshape(-1, len(found.names))
    rows = []
    for index, (name, estimate) in enumerate(zip(found.names, found.estimates.tolist(), strict=True)):
        column = own[:, index]
        if len(column) < 2:
            rows.append(BootstrapRow(name, estimate))
            continue
        bias, error = float(column.mean()) - estimate, float(column.std(ddof=1))
        lower: float | None = None
        upper: float | None = None
        if len(column) >= FEWEST:
            lower, upper = (float(value) for value in np.percentile(column, LEVELS))
        rows.append(BootstrapRow(name, estimate, bias, error, lower, float(np.median(column)), upper))
    return tuple(rows)


def problems(replicates: Sequence[Replicate]) -> dict[str, int]:
    """How many replicates do not count, by reason (without subject and figures), the most frequent first."""
    reasons = Counter(one.problem.split(" (")[0].split(";")[0] for one in replicates if one.problem)
    return dict(reasons.most_common())
