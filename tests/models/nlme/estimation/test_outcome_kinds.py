"""Fits of counts, levels and events against marginal likelihoods that scipy integrates and maximises."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logsumexp
from scipy.stats import norm, poisson

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.event_expansion import expand_events
from image_longitudinal.models.nlme.data.events import event_table
from image_longitudinal.models.nlme.diagnostics.sdtab import sdtab
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.estimation.maximum_likelihood import maximum_likelihood
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.quadrature import gauss_hermite, place, quadrature_fit
from image_longitudinal.models.nlme.estimation.saem import saem_fit
from image_longitudinal.models.nlme.estimation.sampled_likelihood import SampledLikelihood
from tests.models.nlme.outcome_kinds import CLOSED, COUNTS, INTEGRATED, JOINT

N = 60
NODES, LOG_WEIGHTS = gauss_hermite(60, 1)
Z, LOG_W = np.sqrt(2.0) * NODES[:, 0], LOG_WEIGHTS - NODES[:, 0] ** 2 - 0.5 * np.log(np.pi)  # of N(0, 1)


def marginal(log_density):
    """-2 log likelihood from log densities (n, nodes) at the nodes of N(0, 1)."""
    return -2.0 * logsumexp(log_density + LOG_W, axis=1).sum()


@pytest.fixture(scope="module")
def counted():
    """Counts and levels of subjects at four times: the table's data, counts and levels (n, 4), times."""
    rng, t = np.random.default_rng(5), np.arange(4.0)
    base = 2.0 * np.exp(np.sqrt(0.3) * rng.standard_normal((N, 1)))
    count = rng.poisson(base * np.exp(-0.2 * t)).astype(float)
    u = rng.uniform(size=(N, 4))
    level = 1.0 + sum((u > expit(cut - np.log(base))).astype(float) for cut in (0.0, 1.5))
    ids, time = np.repeat(np.arange(N), 8), np.tile(np.repeat(t, 2), N)
    values = np.stack([count, level], axis=2).ravel()
    columns = {"ID": ids, "TIME": time, "DV": values, "DVID": np.tile([1, 2], 4 * N)}
    return expand_events(event_table(columns, COUNTS.structural), COUNTS.structural), count, level, t


def exactly(counted, psi):
    """The marginal -2 log likelihood of counts and levels: log base, trend, first, log between, log ω."""
    _, count, level, t = counted
    log_base = psi[0] + np.exp(psi[4]) * Z
    density = poisson.logpmf(count[:, None], np.exp(log_base[:, None] + psi[1] * t)).sum(axis=2)
    cuts = np.array([-np.inf, psi[2], psi[2] + np.exp(psi[3]), np.inf])[:, None] - log_base
    probability = np.diff(expit(cuts), axis=0)  # (levels, nodes)
    return marginal(density + np.log(probability)[level.astype(int) - 1].sum(axis=1))


def test_counts_and_levels_reach_scipys_maximum_by_every_method(counted):
    data = counted[0]
    start = [np.log(2.0), -0.2, 0.0, np.log(1.5), 0.5 * np.log(0.3)]
    best = minimize(lambda psi: exactly(counted, psi), start, method="BFGS")
    found = quadrature_fit(COUNTS, data, order=9)
    assert found.converged, found.message
    assert found.objective == pytest.approx(best.fun, abs=0.01)  # (both end near the maximum)
    expected = [np.exp(best.x[0]), best.x[1], best.x[2], np.exp(best.x[3]), np.exp(2 * best.x[4])]
    np.testing.assert_array_less(np.abs(found.estimates - expected), 0.05 * found.standard_errors)
    laplace = fit(COUNTS, data, "Laplace", covariance="none")
    assert laplace.converged, laplace.message
    assert laplace.objective == pytest.approx(best.fun, abs=1.0)  # (an approximation)
    sampled = maximum_likelihood(laplace, data, covariance="none")
    assert sampled.converged, sampled.message
    assert sampled.objective == pytest.approx(best.fun, abs=0.2)  # 3 Monte Carlo errors
    drawn = saem_fit(COUNTS, data, covariance="none")
    assert drawn.converged, drawn.message
    # a distance of 0.4 standard errors (root mean square) counts as converged: 5 x 0.16, and the Monte Carlo error
    assert drawn.objective == pytest.approx(best.fun, abs=1.0)


@pytest.fixture(scope="module")
def survived():
    """Exact, right-censored and interval-censored times of two arms: the columns of a table."""
    rng = np.random.default_rng(8)
    treated, eta = np.arange(N) % 2, np.sqrt(0.2) * rng.standard_normal(N)
    time = 5.0 * np.exp(eta) * (rng.exponential(size=N) * np.exp(0.7 * treated)) ** (1 / 1.5)
    seen, dv = np.minimum(time, 8.0), (time <= 8.0).astype(float)
    within = (dv == 1) & (np.arange(N) % 3 == 0)  # known by visits every 2 alone
    begin = np.where(within, 2.0 * np.floor(seen / 2.0), np.nan)
    seen = np.where(within, begin + 2.0, seen)
    return {"ID": np.arange(N), "TIME": seen, "DV": dv, "CENS": within * 1.0, "LIMIT": begin, "TREATED": treated}


def exactly_survived(columns, psi):
    """The marginal -2 log likelihood: log scale, log shape, effect, log ω."""
    shape = np.exp(psi[1])
    scale = np.exp(psi[0] + np.exp(psi[3]) * Z)
    ratio = np.exp(psi[2] * columns["TREATED"])[:, None]

    def cumulative(t):
        return ratio * (t[:, None] / scale) ** shape

    total, t = cumulative(columns["TIME"]), columns["TIME"][:, None]
    dv, within = columns["DV"][:, None], columns["CENS"][:, None] == 1
    exact = dv * np.log(shape / t * total) - total
    before = cumulative(np.nan_to_num(columns["LIMIT"]))
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = np.log(np.exp(-before) - np.exp(-total))
    return marginal(np.where(within, inside, exact))


def test_times_of_events_reach_scipys_maximum(survived):
    start = [np.log(5.0), np.log(1.5), -0.7, 0.5 * np.log(0.2)]
    held = lambda psi: exactly_survived(survived, [*psi, start[3]])  # noqa: E731 - one event does not hold ω and shape
    best = minimize(held, start[:3], method="BFGS")
    data = expand_events(event_table(survived, CLOSED.structural), CLOSED.structural)
    found = quadrature_fit(CLOSED, data, order=15, fixed=("omega",))
    assert found.converged, found.message
    assert found.objective == pytest.approx(best.fun, abs=0.01)
    expected = [np.exp(best.x[0]), np.exp(best.x[1]), best.x[2]]
    np.testing.assert_array_less(np.abs(found.estimates - expected), 0.05 * found.standard_errors)


def check_saem(model, data, **options):
    """SAEM ends near the maximum that quadrature finds, of order 9 (1e-3 and better for these models)."""
    right = quadrature_fit(model, data, order=9, **options)
    found = saem_fit(model, data, covariance="none", **options)
    assert right.converged, right.message
    assert found.converged, found.message
    # a root mean square distance of 0.4 standard errors from the maximum counts as converged
    off = np.abs(found.estimates - right.estimates) / right.standard_errors
    np.testing.assert_array_less(off, 0.8)
    # what such a distance adds to -2 log L, and three Monte Carlo errors
    largest = 0.16 * len(off) + 3 * found.sampling.error
    assert found.objective == pytest.approx(right.objective, abs=largest)


def test_saem_fits_exact_and_censored_times_of_events(survived):
    check_saem(CLOSED, expand_events(event_table(survived, CLOSED.structural), CLOSED.structural), fixed=("omega",))


@pytest.mark.operations
def test_saem_fits_a_marker_with_the_event_that_follows_it():
    rng, n, end, times = np.random.default_rng(11), 100, 8.0, np.arange(7.0)
    start = 1.0 + np.sqrt(0.2) * rng.standard_normal(n)
    growth = 0.3 + np.sqrt(0.02) * rng.standard_normal(n)
    # the time at which base exp(link start) (exp(link growth t) - 1) / (link growth) is an exponential draw
    reached = 1.0 + rng.exponential(size=n) * 0.8 * growth / (0.02 * np.exp(0.8 * start))
    time = np.where(reached > 0.0, np.log(np.maximum(reached, 1e-12)) / (0.8 * growth), np.inf)
    seen, died = np.minimum(time, end), time <= end
    marker = start[:, None] + growth[:, None] * times + 0.3 * rng.standard_normal((n, len(times)))
    rows = [
        row
        for i in range(n)
        for row in (
            *((i, t, value, 1) for t, value in zip(times, marker[i], strict=True) if t < seen[i]),
            (i, seen[i], float(died[i]), 2),
        )
    ]
    columns = dict(zip(("ID", "TIME", "DV", "DVID"), np.array(rows).T, strict=True))
    check_saem(JOINT, expand_events(event_table(columns, JOINT.structural), JOINT.structural), omega="diagonal")


def test_an_integrated_hazard_is_the_closed_form(survived):
    one, two = (
        fit(own, expand_events(event_table(survived, own.structural), own.structural), "Laplace", fixed=(
            "omega", "scale", "shape", "effect",
        ), covariance="none")
        for own in (CLOSED, INTEGRATED)
    )  # fmt: skip
    np.testing.assert_allclose(one.objectives, two.objectives, atol=1e-5)  # (tolerance of the solver: 1e-8 per step)


def test_linearising_methods_are_refused(counted):
    for method in ("FO", "FOCE", "FOCEI"):
        with pytest.raises(ConfigError, match=f"{method} linearises.*laplace, agq, imp or saem"):
            fit(COUNTS, counted[0], method)


def test_the_table_by_observation_has_means_and_pearson_residuals(counted):
    data, count, _, t = counted
    table = sdtab(COUNTS, data, np.zeros((N, 1))).to_pandas()
    rows = table[table["DVID"] == 1]
    mean = np.tile(2.0 * np.exp(-0.2 * t), N)
    np.testing.assert_allclose(rows["IPRED"], mean)
    np.testing.assert_allclose(rows["IWRES"], (count.ravel() - mean) / np.sqrt(mean))
    assert table["CWRES"].isna().all()
    assert table["NPDE"].isna().all()
    assert (table["sd_eta_base"] < np.sqrt(0.3)).all()


def test_a_marker_and_the_event_that_follows_it_have_their_joint_likelihood():
    times, n = np.arange(5.0), 8
    rng = np.random.default_rng(2)
    marker = 1.0 + 0.3 * times + 0.4 * rng.standard_normal((n, 5))
    end, died = rng.uniform(0.5, 4.0, n), np.arange(n) % 2
    columns = {
        "ID": np.repeat(np.arange(n), 6),
        "TIME": np.sort(np.column_stack([np.tile(times, (n, 1)), end]), axis=1).ravel(),
    }
    event = columns["TIME"] == np.repeat(end, 6)
    columns |= {"DVID": 1 + event, "DV": np.where(event, np.repeat(died, 6), 0.0)}
    columns["DV"][~event] = marker.ravel()
    data = expand_events(event_table(columns, JOINT.structural), JOINT.structural)
    objective, coordinates = Objective(JOINT, data), Coordinates(JOINT, "full", ())
    search, psi = SampledLikelihood(objective, coordinates), coordinates.pack(coordinates.start)
    place(search, psi, 9, starts=True)
    found = search.individual_objectives(psi)[0]
    # by a grid over the prior, with the integral of base exp(link (start + growth t)) in closed form
    start, growth = (own.ravel() for own in np.meshgrid(1 + np.sqrt(0.2) * Z, 0.3 + np.sqrt(0.02) * Z, indexing="ij"))
    log_w = np.add.outer(LOG_W, LOG_W).ravel()
    line = start[:, None] + growth[:, None] * times
    density = norm.logpdf(marker[:, None, :], line, 0.3).sum(axis=2)
    total = 0.02 * np.exp(0.8 * start) * np.expm1(0.8 * growth * end[:, None]) / (0.8 * growth)
    density += died[:, None] * (np.log(0.02) + 0.8 * (start + growth * end[:, None])) - total
    # the constant N·log 2π counts the marker's rows alone; the grid is coarse for subjects with steep posteriors
    expected = -2.0 * logsumexp(density + log_w, axis=1) - 5 * np.log(2 * np.pi)
    np.testing.assert_allclose(found, expected, atol=1e-3)
