"""Calibration of fits of counts, levels and times of events: simulated trials, fitted at once.

    python -m benchmarks.nlme_outcome_kinds [--quick] [--trials 200] [--kinds poisson negative-binomial ordinal event]
        [--minutes 6]

Each trial is simulated from a model and fitted by adaptive Gauss-Hermite quadrature from the model's own values. The
bias of an estimate (on the scale of its interval: logarithms of positive ones) is compared with the standard error of
its mean over the trials, and its 95 % intervals are counted that hold the true value. Variances are not looked at.
After so many CPU ``--minutes`` per kind no further trial begins.
"""

import time
from typing import NamedTuple

import numpy as np

from benchmarks.report import argument_parser, print_result
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.data.event_expansion import expand_events
from image_longitudinal.models.nlme.data.events import event_table
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.parameter_table import parameter_rows
from image_longitudinal.models.nlme.estimation.population_parameters import link
from image_longitudinal.models.nlme.estimation.quadrature import quadrature_fit
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.likelihoods import NegativeBinomial, Ordinal, Poisson
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import LIKELIHOOD
from image_longitudinal.models.nlme.model.structural import LikelihoodOf, StructuralModel
from image_longitudinal.models.nlme.model.time_to_event import TimeToEvent, Weibull
from image_longitudinal.models.nlme.simulation.outcomes import simulate_event_times, simulate_outcome

TIMES = np.arange(5.0)
FOLLOW_UP = 8.0
ORDER = 5


class Kind(NamedTuple):
    """A model, the number of subjects of a trial, and what a fit holds."""

    model: PopulationModel
    subjects: int
    fixed: tuple[str, ...] = ()


def population(name: str, likelihood: LikelihoodOf, *parameters: Parameter, covariates: tuple[str, ...] = ()) -> Kind:
    """A model with one random effect of variance 0.3, of the first parameter."""
    names = tuple(own.name for own in parameters)
    structural = StructuralModel(name, (), names, likelihood=likelihood, covariates=covariates)
    model = PopulationModel(name, structural, parameters, ((0.3,),), LIKELIHOOD, Design(tuple(TIMES), ()))
    # One event a subject hardly tells the frailty from the shape of the hazard. Maximum likelihood makes the shape of a
    # Weibull distribution too large by 1.4 / events (Thoman et al. 1969, Technometrics 11:445), which 200 trials of 200
    # subjects tell from 0 by 1.6 standard errors, and of 800 by 0.8.
    return Kind(model, 800 if covariates else 80, ("omega",) if covariates else ())


BASE, TREND = Parameter("base", 2.0), Parameter("trend", 0.1, "normal", random=False)
KINDS = {
    "poisson": population("poisson", lambda t, x, p: Poisson(rate=p.base * s.exp(p.trend * t)), BASE, TREND),
    "negative-binomial": population(
        "negative-binomial",
        lambda t, x, p: NegativeBinomial(mean=p.base * s.exp(p.trend * t), dispersion=p.dispersion),
        BASE,
        TREND,
        Parameter("dispersion", 0.5, random=False),
    ),
    "ordinal": population(
        "ordinal",
        lambda t, x, p: Ordinal(predictor=p.level + p.trend * t, logit_cutpoints=(0.0, p.between)),
        Parameter("level", 0.5, "normal"),
        Parameter("trend", 0.3, "normal", random=False),
        Parameter("between", 1.5, random=False),
    ),
    "event": population(
        "event",
        lambda t, x, p: TimeToEvent(baseline=Weibull(p.scale, p.shape), log_ratio=p.effect * p.treated),
        Parameter("scale", 5.0),
        Parameter("shape", 1.5, random=False),
        Parameter("effect", -0.7, "normal", random=False),
        covariates=("treated",),
    ),
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--minutes", type=float, default=6.0, help="of CPU per kind, after which no trial begins")
    options = parser.parse_args()
    trials = min(options.trials, 10) if options.quick else options.trials
    figures: dict[str, dict[str, object]] = {}
    print(f"{'':20}{'estimate':>12}{'true':>8}{'bias / its SE':>15}{'coverage':>10}")
    for name in options.kinds:
        before = time.process_time()
        errors, held, converged = calibration(KINDS[name], trials, options.minutes)
        done = len(errors)
        cpu = time.process_time() - before
        z = errors.mean(axis=0) / (errors.std(axis=0, ddof=1) / np.sqrt(len(errors)))
        coverage = held.mean(axis=0)
        own = KINDS[name].model.parameters
        for i, parameter in enumerate(own):
            print(f"{name:20}{parameter.name:>12}{parameter.typical:8g}{z[i]:15.2f}{coverage[i]:10.1%}", flush=True)
        print(f"{name:20}{converged} of {done} converged, {cpu / done:.2f} CPU s a trial", flush=True)
        figures[name] = {
            "bias_in_standard_errors": dict(zip((one.name for one in own), z.round(3).tolist(), strict=True)),
            "coverage": dict(zip((one.name for one in own), coverage.round(4).tolist(), strict=True)),
            "trials": done,
            "converged": converged,
            "cpu_seconds_per_trial": round(cpu / done, 3),
        }
    largest = max(abs(z) for one in figures.values() for z in one["bias_in_standard_errors"].values())  # type: ignore[attr-defined]
    print_result(("numpy", "numba"), {"trials": trials, "largest_bias_in_standard_errors": largest, "kinds": figures})


def calibration(kind: Kind, trials: int, minutes: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Errors of the typical values on the scale of their intervals, whether these hold the truth, (trials, p) both.

    Also how many fits converged; the others count as well. No trial begins after so many CPU minutes.
    """
    true = kind.model.typical_values
    errors, held = np.empty((trials, len(true))), np.empty((trials, len(true)), dtype=bool)
    converged, start = 0, time.process_time()
    for trial in range(trials):
        if trial > 1 and time.process_time() - start > 60.0 * minutes:
            return errors[:trial], held[:trial], converged
        found = quadrature_fit(kind.model, simulated(kind, trial), order=ORDER, fixed=kind.fixed)
        converged += found.converged
        rows = {row.name: row for row in parameter_rows(found)}
        for i, own in enumerate(kind.model.parameters):
            row = rows[own.name]
            errors[trial, i] = float(link(own.distribution, row.estimate) - link(own.distribution, own.typical))
            held[trial, i] = row.lower is not None and row.upper is not None and row.lower <= own.typical <= row.upper
    return errors, held, converged


def simulated(kind: Kind, trial: int) -> PopulationData:
    """A trial's observations."""
    model, ids = kind.model, np.arange(kind.subjects)
    eta = normals(stream_key(trial, "eta"), ids, 1) * np.sqrt(np.array(model.omega))
    key, endpoint = stream_key(trial, "outcome"), model.structural.endpoints[0]
    if not model.structural.covariates:
        times = np.tile(TIMES, (kind.subjects, 1))
        values = simulate_outcome(model, eta, times, [], key=key, ids=ids, endpoint=endpoint)
        return PopulationData.of_design(model.structural, values, TIMES, [], ids=ids)
    treated = ids % 2.0
    found = simulate_event_times(
        model, eta, np.full(len(ids), FOLLOW_UP), [], key=key, ids=ids, endpoint=endpoint,
        covariates={"treated": treated},
    )  # fmt: skip
    columns = {"ID": ids, "TIME": found.time, "DV": found.happened * 1.0, "treated": treated}
    return expand_events(event_table(columns, model.structural), model.structural)


if __name__ == "__main__":
    main()
