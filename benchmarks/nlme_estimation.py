"""Time, memory and accuracy of fitting the original's model by FOCE from the original's distant start values.

    python -m benchmarks.nlme_estimation [--quick] [--workers 2]

10,000 and 100,000 subjects with 21 observations (1,000 only with ``--quick``), simulated by this package, fitted with
a full Ω, standard errors from the outer product of gradients. θ is compared with the values of the simulation.
Then the smallest population by importance sampling, SAEM and adaptive quadrature, which maximise the likelihood itself,
each from the same start values and with all that ``fit`` does. Then the empirical Bayes estimates of 50,000 subjects
(1,000 with ``--quick``), several starts each, from Parquet to Parquet.
"""

import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.report import argument_parser, print_result
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.ebes import stream_ebes
from image_longitudinal.models.nlme.estimation.fit import Fit, fit, spread
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate
from image_longitudinal.models.nlme.simulation.trial import write_trial
from image_longitudinal.tasks.population.fit import run_fit
from image_longitudinal.tasks.population.options import FitOptions

MODEL = get_model("depot-central-mm")
START = replace(
    PopulationParameters.of(MODEL), mu=np.log([1.0, 1.1, 0.6]), omega=0.2 * np.eye(3), error=np.array([0.1, 0.0, 1.0])
).into(MODEL)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--largest", type=int, default=100_000, help="skip fits of more subjects")
    options = parser.parse_args()
    sizes = [n for n in ((1_000,) if options.quick else (10_000, 100_000)) if n <= options.largest]
    run(50, options.workers)  # compile, or load compiled code
    seconds, cpu = dict[int, float](), dict[int, float]()
    print(f"{'subjects':>10}{'seconds':>10}{'evaluations':>13}{'largest θ error':>17}{'EBE MSE':>9}  end")
    for n in sizes:
        before = time.process_time()
        seconds[n], result, error, ebe, data = run(n, options.workers)
        cpu[n] = time.process_time() - before
        print(f"{n:10,}{seconds[n]:10.1f}{result.evaluations:13}{error:17.2%}{ebe:9.4f}  {result.message}", flush=True)
        if n == sizes[0]:
            small = data
    others = {name: likelihood(name, small, options.workers) for name in ("imp", "saem", "agq")}
    streamed = 1_000 if options.quick else 50_000
    rate = stream(streamed, options.workers)
    print(
        f"estimates from Parquet to Parquet: {rate:,.0f} subjects/s with {options.workers} workers "
        f"({streamed:,} subjects); 1,000,000 would take {1e6 / rate / 60:.0f} minutes"
    )
    missing = [f"seconds_{n // 1000}k" for n in (10_000, 100_000) if n not in seconds]
    figures = {
        "workers": options.workers,
        "subjects": sizes,
        "seconds": [seconds[n] for n in sizes],
        "cpu_seconds": [cpu[n] for n in sizes],  # comparable also if other work shares the cores
        "seconds_10k": seconds.get(10_000),
        "seconds_100k": seconds.get(100_000),
        "theta_rel_error": error,
        "ebe_mse": ebe,
        # at the smallest size, start included
        "seconds_others": {name: one.seconds for name, one in others.items()},
        "cpu_seconds_others": {name: one.cpu for name, one in others.items()},
        "theta_rel_error_others": {name: one.error for name, one in others.items()},
        "streamed_ebes_per_second": rate,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "why": dict.fromkeys(missing, "not fitted in this run (--quick or --largest)"),
    }
    print_result(("numpy", "numba"), figures)


class Measured(NamedTuple):
    """Wall and CPU seconds of a fit, and the largest relative error of a typical value."""

    seconds: float
    cpu: float
    error: float


def likelihood(method: str, data: PopulationData, workers: int) -> Measured:
    """A method of the likelihood itself, as ``fit`` runs it."""
    options = FitOptions(table="in memory", method=method)
    run_fit(options, START, spread(data, 50), workers)  # compile, or load compiled code
    start, cpu = time.perf_counter(), time.process_time()
    result = run_fit(options, START, data, workers)
    found = Measured(time.perf_counter() - start, time.process_time() - cpu, theta_error(result))
    print(f"{method:>10}{found.seconds:10.1f}{result.evaluations:13}{found.error:17.2%}{'':9}  {result.message}")
    return found


def stream(n: int, workers: int) -> float:
    """Subjects per second of estimating random effects from Parquet to Parquet, at the true population values."""
    with tempfile.TemporaryDirectory() as folder:
        table = write_trial(MODEL, Path(folder) / "observations.parquet", n, seed=2, n_threads=workers)
        start = time.perf_counter()
        stream_ebes(MODEL, table, Path(folder) / "ebes.parquet", n_threads=workers)
        return n / (time.perf_counter() - start)


def run(n: int, workers: int) -> tuple[float, Fit, float, float, PopulationData]:
    """Seconds, fit, largest relative error of a typical value, mean squared error of the estimates of η, data."""
    ids = np.arange(n)
    eta = normals(stream_key(1, "eta"), ids, 3)
    observed = observe(MODEL, simulate(MODEL, eta, n_threads=workers), key=stream_key(1, "residual"), ids=ids)
    data = PopulationData.of_design(MODEL.structural, observed, MODEL.design.times, MODEL.design.doses)
    start = time.perf_counter()
    result = fit(START, data, "FOCE", covariance="gradient", n_threads=workers)
    seconds = time.perf_counter() - start
    return seconds, result, theta_error(result), float(((result.eta - eta) ** 2).mean()), data


def theta_error(result: Fit) -> float:
    """Largest relative error of a typical value."""
    true = np.array(list(MODEL.typical_values.values()))
    return float(np.abs(result.estimates[:3] / true - 1.0).max())


if __name__ == "__main__":
    main()
