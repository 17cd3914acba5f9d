"""Do 95 % intervals hold the truth in 95 % of trials? Coverage of every estimate over simulated trials.

    python -m benchmarks.nlme_calibration [--quick] [--trials 200] [--subjects 40] [--workers 2] [--minutes 25]
        [--kinds "focei, hessian" "focei, sandwich" "focei, plain sandwich" imp saem]

Trials of the library's ``one-compartment`` (seven observations after one dose, diagonal Ω) are simulated and fitted
from the true values: by FOCEI with intervals from the Hessian, from the sandwich, and from the sandwich without its
correction for few subjects; by importance sampling (``imp``) and SAEM, which take twenty times as long, with the
corrected sandwich. Intervals are those of the parameter table, on its scales. The Monte Carlo error of a coverage of
95 % over 200 trials is 1.5 %. Trials that fail or do not converge are counted, and left out. After so many CPU
``--minutes`` no further trial begins.
"""

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.report import argument_parser, print_result
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.fit import Fit, fit
from image_longitudinal.models.nlme.estimation.maximum_likelihood import maximum_likelihood
from image_longitudinal.models.nlme.estimation.parameter_table import parameter_rows
from image_longitudinal.models.nlme.estimation.saem import saem_fit
from image_longitudinal.models.nlme.intervals.refits import tried
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate

TIMES = (0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0)
VARIANCE = 0.09  # of each random effect
MODEL = replace(
    get_model("one-compartment"), omega=tuple(tuple(VARIANCE * (i == j) for j in range(3)) for i in range(3))
)
KINDS = ("focei, hessian", "focei, sandwich", "focei, plain sandwich", "imp", "saem")
Intervals = dict[str, tuple[float, float]]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--minutes", type=float, default=25.0, help="of CPU, after which no trial begins")
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    trials = 20 if options.quick else options.trials
    coordinates = Coordinates(MODEL, "diagonal", ())
    truth = dict(zip(coordinates.names, coordinates.natural(coordinates.pack(coordinates.start)).tolist(), strict=True))
    trial(0, options.subjects, options.kinds)  # compile, or load compiled code
    start, cpu = time.perf_counter(), time.process_time()

    def within_time(number: int) -> dict[str, Intervals] | None:
        late = time.process_time() - cpu > 60.0 * options.minutes
        return None if late else trial(number, options.subjects, options.kinds)

    found = []
    with ThreadPoolExecutor(options.workers) as pool:
        for one in pool.map(within_time, range(trials)):
            if one is None:
                break
            found.append(one)
            if len(found) % 20 == 0:
                minutes = (time.process_time() - cpu) / 60.0
                print(f"{len(found)} of {trials} trials, {minutes:.1f} CPU minutes", file=sys.stderr, flush=True)
    coverage: dict[str, dict[str, float]] = {}
    used: dict[str, int] = {}
    for kind in options.kinds:
        own = [one[kind] for one in found if kind in one]
        used[kind] = len(own)
        coverage[kind] = {
            name: float(np.mean([low <= value <= high for low, high in (one[name] for one in own)])) if own else np.nan
            for name, value in truth.items()
        }
    print(f"{'':34}" + "".join(f"{kind:>23}" for kind in options.kinds))
    for name in truth:
        cells = ["–" if np.isnan(coverage[kind][name]) else f"{coverage[kind][name]:.1%}" for kind in options.kinds]
        print(f"{name:34}" + "".join(f"{cell:>23}" for cell in cells))
    print(f"{f'of {len(found)} trials':34}" + "".join(f"{used[kind]:23}" for kind in options.kinds))
    figures = {
        "trials": len(found),
        "subjects": options.subjects,
        "counted": used,
        "coverage": {k: {n: None if np.isnan(v) else v for n, v in own.items()} for k, own in coverage.items()},
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
    }
    print_result(("numpy", "numba"), figures)


def trial(number: int, subjects: int, kinds: Sequence[str]) -> dict[str, Intervals]:
    """Intervals of each kind by name of the estimate; kinds whose fit failed are missing."""
    ids = np.arange(subjects)
    eta = np.sqrt(VARIANCE) * normals(stream_key(number, "calibration eta"), ids, 3)
    simulated = simulate(MODEL, eta, times=TIMES)
    observed = observe(MODEL, simulated, key=stream_key(number, "calibration residual"), ids=ids)
    data = PopulationData.of_design(MODEL.structural, observed, TIMES, MODEL.design.doses)
    diagonal: dict[str, Any] = {"omega": "diagonal"}
    fits: dict[str, Callable[[], Fit]] = {
        "focei, hessian": lambda: fit(MODEL, data, covariance="hessian", **diagonal),
        "focei, sandwich": lambda: fit(MODEL, data, **diagonal),
        "focei, plain sandwich": lambda: replace(fit(MODEL, data, **diagonal), interval_covariance=None),
        "imp": lambda: maximum_likelihood(
            fit(MODEL, data, covariance="none", **diagonal), data, draws=200, seed=number, **diagonal
        ),
        "saem": lambda: saem_fit(MODEL, data, draws=200, seed=number, **diagonal),
    }
    found = {}
    for kind in kinds:
        own = fits[kind]
        result = tried(lambda *_, own=own: own(), MODEL, data)
        if isinstance(result, Fit) and result.converged:
            rows = {row.name: (row.lower, row.upper) for row in parameter_rows(result)}
            if all(low is not None and high is not None for low, high in rows.values()):
                found[kind] = {name: (float(low or 0.0), float(high or 0.0)) for name, (low, high) in rows.items()}
    return found


if __name__ == "__main__":
    main()
