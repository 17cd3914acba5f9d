"""Time, memory and accuracy of fitting the original's model by FOCE from the original's distant start values.

    python -m benchmarks.nlme_estimation [--quick] [--workers 2]

10,000 and 100,000 subjects with 21 observations (1,000 only with ``--quick``), simulated by this package, fitted with
a full Ω, standard errors from the outer product of gradients. θ is compared with the values of the simulation.
Then the smallest population by importance sampling, SAEM and adaptive quadrature, which maximise the likelihood itself,
each from the same start values and with all that ``fit`` does; and how far each ends from the likelihood's maximum,
which is computed apart (:mod:`benchmarks.nlme_maximum`): an error of θ is also that of the sample. Then the empirical
Bayes estimates of 50,000 subjects (1,000 with ``--quick``), several starts each, from Parquet to Parquet.
"""

import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.nlme_maximum import maximum_near
from benchmarks.report import argument_parser, print_result
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.ebes import stream_ebes
from image_longitudinal.models.nlme.estimation.fit import Fit, spread
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate
from image_longitudinal.models.nlme.simulation.trial import write_trial
from image_longitudinal.tasks.population.fit import run_fit
from image_longitudinal.tasks.population.options import FitOptions

MODEL = get_model("depot-central-mm")
TRUE = np.array(list(MODEL.typical_values.values()))
START = replace(
    PopulationParameters.of(MODEL), mu=np.log([1.0, 1.1, 0.6]), omega=0.2 * np.eye(3), error=np.array([0.1, 0.0, 1.0])
).into(MODEL)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--largest", type=int, default=100_000, help="skip fits of more subjects")
    options = parser.parse_args()
    sizes = [n for n in ((1_000,) if options.quick else (10_000, 100_000)) if n <= options.largest]
    print(f"{'subjects':>10}{'method':>8}{'CPU s':>8}{'seconds':>9}{'evaluations':>13}{'largest θ error':>17}  end")
    foce, data = dict[int, Measured](), dict[int, Simulated]()
    for n in sizes:
        data[n] = simulated(n, options.workers)
        foce[n] = measured("foce", data[n].data, options.workers)
    small = data[sizes[0]].data
    others = {name: measured(name, small, options.workers) for name in ("imp", "saem", "agq", "agq7")}
    every = {"foce": foce[sizes[0]]} | others
    maximum = maximum_near([others[name].fit for name in ("imp", "saem")], small, options.workers)
    distances = {name: maximum.distance(one.fit) for name, one in every.items()}
    off = np.abs(maximum.estimates[:3] / TRUE - 1.0)
    print(
        f"maximum of the likelihood: {off.max():.2%} from the truth in the worst typical value, "
        f"{(off * TRUE / maximum.standard_errors[:3]).max():.1f} standard errors in the farthest; Monte Carlo error "
        f"{maximum.error:.2f} standard errors, step from the mean of the fits {maximum.last_step:.2f}; from it are "
        + ", ".join(f"{name} {distance:.2f}" for name, distance in distances.items())
    )
    mse = float(((foce[sizes[-1]].fit.eta - data[sizes[-1]].eta) ** 2).mean())
    streamed = 1_000 if options.quick else 50_000
    rate = stream(streamed, options.workers)
    print(
        f"estimates from Parquet to Parquet: {rate:,.0f} subjects/s with {options.workers} workers "
        f"({streamed:,} subjects); 1,000,000 would take {1e6 / rate / 60:.0f} minutes"
    )
    missing = [f"seconds_{n // 1000}k" for n in (10_000, 100_000) if n not in foce]
    figures = {
        "workers": options.workers,
        "subjects": sizes,
        "seconds": [foce[n].seconds for n in sizes],
        "cpu_seconds": [foce[n].cpu for n in sizes],  # comparable also if other work shares the cores
        "seconds_10k": foce[10_000].seconds if 10_000 in foce else None,
        "seconds_100k": foce[100_000].seconds if 100_000 in foce else None,
        "theta_rel_error": foce[sizes[-1]].error,
        "ebe_mse": mse,
        # at the smallest size, start included
        "seconds_others": {name: one.seconds for name, one in others.items()},
        "cpu_seconds_others": {name: one.cpu for name, one in others.items()},
        "cpu_of_foce_others": {name: one.cpu / every["foce"].cpu for name, one in others.items()},
        "theta_rel_error_others": {name: one.error for name, one in others.items()},
        "standard_errors_from_maximum": distances,
        "error_of_maximum_in_standard_errors": maximum.error,
        "theta_rel_error_of_maximum": float(off.max()),
        "streamed_ebes_per_second": rate,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "why": dict.fromkeys(missing, "not fitted in this run (--quick or --largest)"),
    }
    print_result(("numpy", "numba"), figures)


class Simulated(NamedTuple):
    """Simulated subjects, and their random effects (n, k)."""

    data: PopulationData
    eta: NDArray[np.float64]


class Measured(NamedTuple):
    """A fit, its wall and CPU seconds, and the largest relative error of a typical value."""

    fit: Fit
    seconds: float
    cpu: float
    error: float


def simulated(n: int, workers: int, sample: int = 1) -> Simulated:
    """``n`` subjects of the model; others for each ``sample``."""
    ids = np.arange(n)
    eta = normals(stream_key(sample, "eta"), ids, 3)
    observed = observe(MODEL, simulate(MODEL, eta, n_threads=workers), key=stream_key(sample, "residual"), ids=ids)
    return Simulated(PopulationData.of_design(MODEL.structural, observed, MODEL.design.times, MODEL.design.doses), eta)


def measured(name: str, data: PopulationData, workers: int) -> Measured:
    """A fit by a method, whose name may end with an order of quadrature, as ``fit`` runs it; it prints a line."""
    method, order = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz")
    options = FitOptions(table="in memory", method=method, covariance="gradient", **({"order": order} if order else {}))
    run_fit(options, START, spread(data, 50), workers)  # compile, or load compiled code
    start, cpu = time.perf_counter(), time.process_time()
    result = run_fit(options, START, data, workers)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    error = float(np.abs(result.estimates[:3] / TRUE - 1.0).max())
    print(
        f"{len(data):10,}{name:>8}{cpu:8.1f}{seconds:9.1f}{result.evaluations:13}{error:17.2%}  {result.message}",
        flush=True,
    )
    return Measured(result, seconds, cpu, error)


def stream(n: int, workers: int) -> float:
    """Subjects per second of estimating random effects from Parquet to Parquet, at the true population values."""
    with tempfile.TemporaryDirectory() as folder:
        table = write_trial(MODEL, Path(folder) / "observations.parquet", n, seed=2, n_threads=workers)
        start = time.perf_counter()
        stream_ebes(MODEL, table, Path(folder) / "ebes.parquet", n_threads=workers)
        return n / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
