"""Speed and accuracy of simulating trajectories, against scipy and diffrax on the same subjects in the same run.

    python -m benchmarks.nlme_simulation [--quick] [--workers 2] [--diffrax-python PYTHON]

diffrax is measured if it can be imported by this Python, or by that of --diffrax-python or the environment variable
DIFFRAX_PYTHON (`python -m venv DIR && DIR/bin/pip install diffrax`).
scipy solves one subject per call with tolerance 1e-6, as a user would write it. diffrax solves batches of several sizes
by its explicit and its implicit solver, at tolerance 1e-6 and below; its figure is the fastest of all these runs. A
second figure is the fastest run with errors below 1e-6: at tolerance 1e-6 errors are about 5e-5. Every speed is per
core: all are timed on one thread; the full population uses ``--workers`` threads.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.integrate import odeint, solve_ivp

from benchmarks.report import argument_parser, print_result
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.simulation.simulate import individual_parameters, observe, predict, simulate

LEVELS, POPULATION = 5, 1_100_000
ACCURACY = 1e-6  # largest absolute error of this package, per unit of dose
MODEL = get_model("depot-central-mm")
TIMES = np.array(MODEL.design.times)
MULTI_DOSE = [Dose(24.0 * day, 100.0, "depot") for day in range(5)] + [Dose(6.0, 50.0, "central", duration=2.0)]
MULTI_TIMES = np.arange(0.0, 120.1, 6.0)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--workers", type=int, default=2, help="threads for the full population")
    peer_python = os.environ.get("DIFFRAX_PYTHON", sys.executable)
    parser.add_argument("--diffrax-python", default=peer_python, help="a Python that has diffrax")
    options = parser.parse_args()
    n, n_peer, batch = (5_000, 50, 2_000) if options.quick else (50_000, 500, 10_000)
    simulate(MODEL, np.zeros((1, 3)))  # compile, or load compiled code

    eta = normals(stream_key(0, "benchmark"), np.arange(n), 3)
    ours = best_of(3, lambda: simulate(MODEL, eta[:n])) / n
    lsoda_seconds, odeint_seconds = one_by_one(lsoda, eta[:n_peer]), one_by_one(fortran_lsoda, eta[:n_peer])
    diffrax, why_not = time_diffrax(eta[:batch], options.diffrax_python)
    best = min(diffrax, key=lambda run: run["seconds"], default=None)
    as_accurate = (run for run in diffrax if run["error"] <= ACCURACY)
    equal = min(as_accurate, key=lambda run: run["seconds"], default=None)
    error, lowest = accuracy()
    general, general_peer = multi_dose(eta[: n // 25], n_peer // 10)
    seconds, with_noise, cpu = (None, None, None) if options.quick else full_population(options.workers)

    print(f"{'':34}{'µs / subject':>14}{'ratio':>10}")
    rows = [("this kernel", ours, ours, ""), ("scipy solve_ivp LSODA", lsoda_seconds, ours, "")]
    rows.append(("scipy odeint (LSODA)", odeint_seconds, ours, ""))
    for run in diffrax:
        name = f"diffrax {run['solver']} {run['tolerance']:.0e}, vmap {run['batch']:,}"
        rows.append((name, run["seconds"], ours, f"  error {run['error']:.1e}"))
    rows.append(("multi-dose, generated kernel", general, general, ""))
    rows.append(("multi-dose, solve_ivp LSODA", general_peer, general, ""))
    for name, value, own, error_text in rows:
        print(f"{name:34}{1e6 * value:14.2f}{value / own:10.1f}{error_text}")
    print(f"largest error {error:.2e}, lowest value {lowest:.1e}, over 11,000 subjects")
    why = {} if best else {"speedup_vs_diffrax": why_not}
    if seconds is None:
        why["seconds_full_population"] = "not simulated with --quick"
    figures = {
        "workers": options.workers,
        "microseconds_per_subject": 1e6 * ours,
        "speedup_vs_lsoda": lsoda_seconds / ours,
        "speedup_vs_odeint": odeint_seconds / ours,
        "speedup_vs_diffrax": best["seconds"] / ours if best else None,
        "speedup_vs_diffrax_at_equal_error": equal["seconds"] / ours if equal else None,
        "diffrax": {"fastest": best, "fastest_at_equal_error": equal},
        "speedup_multi_dose_vs_lsoda": general_peer / general,
        "seconds_full_population": seconds,
        "seconds_full_population_with_noise": with_noise,
        "cpu_seconds_full_population": cpu,  # comparable also if other work shares the cores
        "max_abs_error": error,
        "lowest_value": lowest,
        "why": why,
    }
    print_result(("numpy", "scipy", "numba"), figures)


def best_of(times: int, run: Callable[[], Any]) -> float:
    """Shortest wall-clock seconds of several runs: the least disturbed by other work."""
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        durations.append(time.perf_counter() - start)
    return min(durations)


def one_by_one(solve: Callable[[np.ndarray], np.ndarray], eta: np.ndarray) -> float:
    """Seconds per subject of a solver for one subject; its answers are compared with ours."""
    parameters = individual_parameters(MODEL, eta)
    answers = [solve(row) for row in parameters]
    assert np.abs(np.array(answers) - simulate(MODEL, eta)).max() < 1e-3, "the peer solves another problem"
    return best_of(2, lambda: [solve(row) for row in parameters]) / len(eta)


def michaelis_menten(t: float, x: np.ndarray, ka: float, imax: float, ic50: float) -> list[float]:
    return [-ka * x[0], ka * x[0] - imax * x[1] / (ic50 + x[1])]


def lsoda(p: np.ndarray) -> np.ndarray:
    options: dict[str, Any] = {"method": "LSODA", "t_eval": TIMES, "rtol": 1e-6, "atol": 1e-6}
    return solve_ivp(michaelis_menten, (0.0, 10.0), [1.0, 0.0], args=tuple(p.tolist()), **options).y[1]


def fortran_lsoda(p: np.ndarray) -> np.ndarray:
    return odeint(michaelis_menten, [1.0, 0.0], TIMES, args=tuple(p.tolist()), rtol=1e-6, atol=1e-6, tfirst=True)[:, 1]


def time_diffrax(eta: np.ndarray, python: str) -> tuple[list[dict[str, Any]], str]:
    """Runs of diffrax on one core, each with seconds per subject and error; or none, and the reason."""
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{name}.npy" for name in ("parameters", "times", "reference")]
        parameters = individual_parameters(MODEL, eta)
        reference = reference_solution(MODEL.structural, parameters, TIMES, MODEL.design.doses)
        for file, array in zip(files, (parameters, TIMES, reference), strict=True):
            np.save(file, array)
        peer = str(Path(__file__).with_name("diffrax_peer.py"))
        done = subprocess.run([python, peer, *files], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        return [], f"diffrax did not run with {Path(python).name}: {done.stderr.strip().splitlines()[-1]}"
    return json.loads(done.stdout.splitlines()[-1])["runs"], ""


def accuracy() -> tuple[float, float]:
    """Largest error over 10,000 random and 1,000 extreme subjects against the symbolic model at 1e-11 per step."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-6, 6, 7)] * 3), axis=-1).reshape(-1, 3)
    eta = np.concatenate([rng.standard_normal((10_000, 3)), grid, rng.uniform(-5, 5, (1000 - len(grid), 3))])
    ours = simulate(MODEL, eta)
    reference = reference_solution(MODEL.structural, individual_parameters(MODEL, eta), TIMES, MODEL.design.doses)
    return float(np.abs(ours - reference).max()), float(ours.min())


def reference_solution(structural: Any, parameters: np.ndarray, times: np.ndarray, doses: Any) -> np.ndarray:
    """Solution of the generated integrator at 1e-11 per step."""
    data = PopulationData.of_design(structural, np.zeros((1, len(times))), times, doses)
    generated = replace(structural, kernel=None)
    return predict(generated, parameters, data, shared=True, tolerance=1e-11).reshape(len(parameters), -1)


def multi_dose(eta: np.ndarray, n_peer: int) -> tuple[float, float]:
    """Seconds per subject of a generated kernel and of LSODA: daily doses and an infusion, saturable elimination."""
    model = get_model("one-compartment-mm")
    effects = 0.3 * np.concatenate([eta, eta[:, :1]], axis=1)
    got = simulate(model, effects, MULTI_TIMES, MULTI_DOSE)
    parameters = individual_parameters(model, effects[:n_peer])

    def peer(p: np.ndarray) -> np.ndarray:
        ka, vmax, km, v = (float(value) for value in p)
        x, rows = np.zeros(2), np.zeros(len(MULTI_TIMES))
        cuts = sorted({0.0, 120.0, 6.0, 8.0, *[24.0 * day for day in range(5)]})
        for left, right in pairwise(cuts):
            rate = 25.0 if left == 6.0 else 0.0
            x[0] += 100.0 if left % 24 == 0 else 0.0

            def rhs(t: float, x: np.ndarray, rate: float = rate) -> list[float]:
                c = x[1] / v
                return [-ka * x[0], ka * x[0] - vmax * c / (km + c) + rate]

            inside = np.isin(MULTI_TIMES, [at for at in MULTI_TIMES if left <= at <= right])
            at = np.unique(np.append(MULTI_TIMES[inside], right))
            y = solve_ivp(rhs, (left, right), x, method="LSODA", t_eval=at, rtol=1e-6, atol=1e-6).y
            rows[inside] = y[1][: inside.sum()] / v
            x = y[:, -1].copy()
        return rows

    answers = np.array([peer(row) for row in parameters])
    assert np.abs(answers - got[:n_peer]).max() < 1e-3, "the peer solves another problem"
    seconds = best_of(2, lambda: simulate(model, effects, MULTI_TIMES, MULTI_DOSE)) / len(effects)
    return seconds, best_of(2, lambda: [peer(row) for row in parameters]) / n_peer


def full_population(workers: int) -> tuple[float, float, float]:
    """Seconds for 1.1 million subjects at five levels: random effects and predictions; with observations too.

    And the processor seconds of the former.
    """
    chunk = 100_000
    predicting = observing = cpu = 0.0
    for level in range(LEVELS):
        for first in range(0, POPULATION, chunk):
            ids = np.arange(first, min(first + chunk, POPULATION))
            start, start_cpu = time.perf_counter(), time.process_time()
            prediction = simulate(MODEL, normals(stream_key(0, "eta", level), ids, 3), n_threads=workers)
            middle = time.perf_counter()
            cpu += time.process_time() - start_cpu
            outcome = observe(MODEL, prediction, key=stream_key(0, "residual", level), ids=ids)
            observing += time.perf_counter() - middle
            predicting += middle - start
            assert math.isfinite(outcome.sum())
    return predicting, predicting + observing, cpu


if __name__ == "__main__":
    main()
