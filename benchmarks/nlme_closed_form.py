"""FOCEI of linear compartments in closed form: CPU seconds, against the same equations integrated and against R's nlme.

    python -m benchmarks.nlme_closed_form [--quick] [--data FOLDER]

Theophylline (12 subjects, 132 observations; ``theoph_132obs.csv`` in FOLDER) and 300 simulated subjects with 9
observations each, by the library's ``one-compartment``: the second fit in one process, standard errors (sandwich)
included. Then a bootstrap of Theophylline, 500 replicates (50 with ``--quick``), and first runs in new processes:
simulation and fit with nothing compiled, of another library model when only what serves every model is, and after
``models.nlme.compile_solvers``, which ``make setup`` runs.
``--quick`` leaves the first runs and the integrated fit of 300 subjects out.

R's nlme is measured in the same run where ``Rscript`` finds it (Debian: r-base-core, r-cran-nlme): also the best of
three fits after a first one, from the same start values, with its own approximation (Lindstrom and Bates): with
constant residual error, which is its fastest, and with the proportional error that the 300 subjects have. It computes
standard errors of the fixed effects from its last linearisation, no sandwich, and tests no minimum.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.report import argument_parser, print_result
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import Fit, fit
from image_longitudinal.models.nlme.intervals.bootstrap import bootstrap
from image_longitudinal.models.nlme.kernels import codegen
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate

MODEL = get_model("one-compartment")
DOSES = {"theophylline": 320.0, "300 x 9": MODEL.design.doses[0].amount}
NLME = """
suppressMessages(library(nlme))
given <- commandArgs(TRUE)
dose <- as.numeric(given[2])
d <- groupedData(y ~ t | id, read.csv(given[1]))
f <- function(t, lka, lcl, lv) {{
  ka <- exp(lka); v <- exp(lv); k <- exp(lcl) / v
  dose * ka / (v * (ka - k)) * (exp(-k * t) - exp(-ka * t))
}}
run <- function() nlme(
  y ~ f(t, lka, lcl, lv), data = d, fixed = lka + lcl + lv ~ 1, random = pdDiag(lka + lcl + lv ~ 1),
  start = log(as.numeric(given[3:5])), weights = {weights}
)
fit <- run()
best <- Inf
for (i in 1:3) {{ t <- proc.time(); fit <- run(); u <- proc.time() - t; best <- min(best, u[1] + u[2]) }}
cat(best)
"""
WEIGHTS = {"constant": "NULL", "proportional": "varPower(fixed = 1)"}
TIMES = (0.25, 0.5, 1.0, 2.0, 4.0, 7.0, 12.0, 24.0, 36.0)
DATA = Path(os.environ.get("SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "nlme"
FIRST_RUN = """
import numpy as np
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate
model = get_model({name!r})
eta = 0.2 * np.random.default_rng(1).standard_normal((100, model.n_random_effects))
observed = observe(model, simulate(model, eta), key=1, ids=np.arange(100))
design = model.design
fit(model, PopulationData.of_design(model.structural, observed, design.times, design.doses), omega="diagonal")
"""


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    missing: dict[str, str] = {}
    figures: dict[str, object] = {"why": missing}
    cases = {"300 x 9": simulated()}
    if (options.data / "theoph_132obs.csv").exists():
        cases = {"theophylline": theophylline(options.data), **cases}
    print(f"{'':16}{'closed form':>14}{'integrated':>14}{'nlme, ratio to it':>20}{'proportional':>20}")
    for name, (model, data) in cases.items():
        seconds, found = warm(model, data)
        others = {error: by_nlme(model, data, DOSES[name], error) for error in WEIGHTS}
        integrated = None
        if name == "theophylline" or not options.quick:
            with integrating():
                integrated, other = warm(model, data)
            assert abs(found.objective - other.objective) < 1e-3
        shown = "".join(f"{'–' if own is None else f'{own:.3f}, {seconds / own:.2f}':>20}" for own in others.values())
        print(f"{name:16}{seconds:14.3f}{'–' if integrated is None else f'{integrated:.2f}':>14}{shown}", flush=True)
        figures[name] = {"closed_form": seconds, "integrated": integrated, "objective": found.objective,
                         "nlme": others}  # fmt: skip
        for error, seconds_of_nlme in others.items():
            if seconds_of_nlme is None:
                missing[f"nlme {name} {error}"] = "no Rscript with nlme, or its fit does not converge"
    if "theophylline" in cases:
        figures["bootstrap"] = bootstrapped(*cases["theophylline"], 50 if options.quick else 500)
    if not options.quick:
        with tempfile.TemporaryDirectory() as cache:
            for what, name in (("nothing compiled", "one-compartment"), ("another model", "two-compartment"),
                               ("again", "two-compartment")):  # fmt: skip
                figures[what] = first_run(name, cache)
                print(f"first run of {name}, {what}: {figures[what]:.1f} CPU seconds", flush=True)
            figures["compile_solvers"] = new_process(
                "-m", "image_longitudinal.models.nlme.compile_solvers", cache=cache
            )
            figures["after compile_solvers"] = first_run("pk-emax", cache)
            print(f"the rest of compile_solvers: {figures['compile_solvers']:.1f} CPU seconds, "
                  f"first run of pk-emax then {figures['after compile_solvers']:.1f}")  # fmt: skip
    print_result(("numpy", "numba"), figures)


def theophylline(folder: Path) -> tuple[PopulationModel, PopulationData]:
    """The model near the estimates and the data, 320 mg for everyone."""
    table = np.genfromtxt(folder / "theoph_132obs.csv", delimiter=",", skip_header=1)
    subjects = [
        PopulationData.of_design(MODEL.structural, rows[:, 2][None], rows[:, 1], [Dose(0.0, 320.0)], ids=[int(number)])
        for number, rows in ((number, table[table[:, 0] == number]) for number in np.unique(table[:, 0]))
    ]
    residual = ResidualError("combined2", additive=0.3, proportional=0.1)
    return start(residual, ka=1.5, cl=2.8, v=32.0), PopulationData.concatenate(subjects)


def simulated() -> tuple[PopulationModel, PopulationData]:
    """300 subjects with 9 observations of the model."""
    ids = np.arange(300)
    eta = 0.3 * normals(stream_key(1, "eta"), ids, 3)
    observed = observe(MODEL, simulate(MODEL, eta, TIMES), key=stream_key(1, "residual"), ids=ids)
    data = PopulationData.of_design(MODEL.structural, observed, TIMES, MODEL.design.doses, ids=ids)
    return start(MODEL.residual, ka=1.2, cl=1.8, v=22.0), data


def start(residual: ResidualError, **values: float) -> PopulationModel:
    """The model with start values."""
    parameters = tuple(replace(own, typical=values[own.name]) for own in MODEL.parameters)
    return replace(MODEL, parameters=parameters, residual=residual, omega=tuple(map(tuple, 0.1 * np.eye(3))))


def warm(model: PopulationModel, data: PopulationData) -> tuple[float, Fit]:
    """CPU seconds of the best of three fits after the first, and the fit."""
    found, best = fit(model, data, omega="diagonal"), np.inf
    for _ in range(3):
        before = time.process_time()
        found = fit(model, data, omega="diagonal")
        best = min(best, time.process_time() - before)
    return float(best), found


def by_nlme(model: PopulationModel, data: PopulationData, dose: float, error: str) -> float | None:
    """CPU seconds of R's nlme with one of :data:`WEIGHTS`; None if it is not there or fails."""
    if shutil.which("Rscript") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "observations.csv")
        columns = np.column_stack([data.ids[data.subject_of_row], data.times, data.observed])
        np.savetxt(table, columns, delimiter=",", header="id,t,y", comments="")
        script = Path(folder, "fit.R")
        script.write_text(NLME.format(weights=WEIGHTS[error]), encoding="utf-8")
        start = [str(value) for value in (dose, *model.typical_values.values())]
        done = subprocess.run(
            ["Rscript", script, table, *start], capture_output=True, text=True, encoding="utf-8", check=False
        )
    return float(done.stdout) if done.returncode == 0 else None


def bootstrapped(model: PopulationModel, data: PopulationData, replicates: int) -> dict[str, float]:
    """CPU and wall seconds of a bootstrap of the fit on two threads, and how many replicates count."""
    found = fit(model, data, omega="diagonal")

    def refit(start: PopulationModel, drawn: PopulationData, held: tuple[str, ...]) -> Fit:
        return fit(start, drawn, omega="diagonal", fixed=held, covariance="none")

    cpu, wall = time.process_time(), time.perf_counter()
    counted = sum(not one.problem for one in bootstrap(found, data, refit, range(replicates), n_threads=2))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"bootstrap: {replicates} replicates, {counted} count: {cpu:.1f} CPU seconds, {wall:.1f} s on two threads")
    return {"replicates": replicates, "counted": counted, "cpu_seconds": cpu, "seconds": wall}


@contextmanager
def integrating() -> Iterator[None]:
    """Every model is integrated."""
    with patch.object(codegen, "linear_kernel", return_value=None):
        yield


def first_run(name: str, cache: str) -> float:
    """CPU seconds of a new process that simulates and fits a library model."""
    return new_process("-c", FIRST_RUN.format(name=name), cache=cache)


def new_process(*arguments: str, cache: str) -> float:
    """CPU seconds of Python with its cache of kernels in a folder."""
    environment = os.environ | {"XDG_CACHE_HOME": cache}
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, env=environment)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    main()
