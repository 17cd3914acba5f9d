"""Linear compartments in closed form between events: their state, what moves it and what changes it.

A subject's state is that of its modes (:mod:`models.nlme.kernels.spectrum`), with its derivatives by each mode's own
rates; the chain rule to the parameters is applied at observations alone. A depot with rate ka that holds D at a time
adds to mode i after a duration h, with E(r) = exp(-r h),

    kt ψ,    ψ = g D,    g = (E(λ_i) - E(ka)) / (ka - λ_i),

with its series where the two rates are nearly the same. What else depends on the parameters (lag times, amounts, a
change of covariates) is carried as derivatives by the parameters themselves.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.nlme.kernels import calls
from image_longitudinal.models.nlme.kernels.compiled import apart, compiled, inlined

NEAR = 1e-2  # differences of exponents below which a series of six terms is exact to 1e-14
AMOUNT, RATE = 0, 1  # what an addition is to


def _record(names: str) -> np.dtype[np.void]:
    return np.dtype([(name, np.float64) for name in names.split()])


# A mode: λ, w, √(a b) of its peripheral compartment; ζ without what came from depots, its derivative by λ; its infusion
MODE = _record("decay weight root zeta zeta_l rate")
DEPOT = _record("ka kt amount amount_k rate kept")  # ``amount_k``: derivative by ka; ``kept``: scratch, exp(-ka h)
PASSED = _record("psi psi_l psi_k")  # from a depot to a mode, divided by kt; derivatives by λ and ka
EXCHANGE = _record("matrix vector inverse left right")  # S, u, 1 / D, l, r
# Derivatives by a parameter; those of zeta, amount and rate are what the ones by λ, ka and kt do not cover
MODE_BY = _record("decay weight zeta rate")
DEPOT_BY = _record("ka kt amount rate")
EXCHANGE_BY = _record("left right")


class Linear(NamedTuple):
    """Modes and state of one subject: nd depots, nc modes (central and peripheral compartments), m sensitivities.

    ``places`` (nd + nc,): states of the model that are the depots, the central and the peripheral compartments;
    ``more`` (2,): whether there are derivatives of zeta, amount or rate, and whether anything is infused.
    """

    places: NDArray[np.int64]
    more: NDArray[np.bool_]
    rates: NDArray[np.float64]  # of the model: kernels.linear_form.LinearForm
    rates_by: NDArray[np.float64]
    modes: NDArray[np.void]  # (nc,)
    depots: NDArray[np.void]  # (nd,)
    passed: NDArray[np.void]  # (nc, nd)
    exchange: NDArray[np.void]  # (nc, nc): by mode and compartment, but ``vector``: by compartment and mode
    modes_by: NDArray[np.void]  # (nc, m)
    depots_by: NDArray[np.void]  # (nd, m)
    exchange_by: NDArray[np.void]  # (nc, nc, m)
    y: NDArray[np.float64]  # (nd + nc,) amounts by state of the model
    y_by: NDArray[np.float64]  # (nd + nc, m)
    rate: NDArray[np.float64]  # (nd + nc,) infusion rates by state
    rate_by: NDArray[np.float64]


@compiled
def new_linear(model, m):  # type: ignore[no-untyped-def]
    """Modes and state for a model, all 0."""
    n, nd = model[calls.N_STATES], model[calls.N_DEPOTS]
    nc = n - nd
    size = 2 * nd + 3 * nc - 2
    places = np.empty(n, dtype=np.int64)
    for i in range(n):
        places[i] = model[calls.PLACES + i]
    return Linear(
        places, np.zeros(2, dtype=np.bool_), np.zeros(size), np.zeros((size, m)), np.zeros(nc, dtype=MODE),
        np.zeros(nd, dtype=DEPOT), np.zeros((nc, nd), dtype=PASSED), np.zeros((nc, nc), dtype=EXCHANGE),
        np.zeros((nc, m), dtype=MODE_BY), np.zeros((nd, m), dtype=DEPOT_BY), np.zeros((nc, nc, m), dtype=EXCHANGE_BY),
        np.zeros(n), np.zeros((n, m)), np.zeros(n), np.zeros((n, m)),
    )  # fmt: skip


@compiled
def phi(x):  # type: ignore[no-untyped-def]
    """(1 - exp(-x)) / x and its derivative."""
    if abs(x) < NEAR:
        value = 1.0 - x * (0.5 - x * (1.0 / 6.0 - x * (1.0 / 24.0 - x * (1.0 / 120.0 - x / 720.0))))
        return value, -0.5 + x * (1.0 / 3.0 - x * (0.125 - x * (1.0 / 30.0 - x * (1.0 / 144.0 - x / 840.0))))
    value = -math.expm1(-x) / x
    return value, (math.exp(-x) - value) / x


@compiled
def transfer(h, ka, decay, of_depot, of_mode):  # type: ignore[no-untyped-def]
    """g of the module's description and its derivatives by λ and ka; ``of_...``: exp(-rate h)."""
    apart = ka - decay
    if abs(apart * h) < NEAR:
        value, slope = phi(apart * h)
        g = h * of_mode * value
        by_k = h * h * of_mode * slope
        return g, -h * g - by_k, by_k
    inverse = 1.0 / apart
    g = (of_mode - of_depot) * inverse
    return g, (g - h * of_mode) * inverse, (h * of_depot - g) * inverse


@inlined
def advance(h, s):  # type: ignore[no-untyped-def]
    """Move the state by a duration h (negative: back) of constant infusion rates."""
    more, modes, depots, passed, modes_by, depots_by, y_by = (
        s.more, s.modes, s.depots, s.passed, s.modes_by, s.depots_by, s.y_by,
    )  # fmt: skip
    m, more, infusing = y_by.shape[1], more[0], more[1]
    for d in range(depots.size):
        depots[d].kept = math.exp(-depots[d].ka * h)
    for i in range(modes.size):
        mode = modes[i]
        e = math.exp(-mode.decay * h)
        q, q_l = 0.0, 0.0
        if infusing:
            value, slope = phi(mode.decay * h)
            q, q_l = h * value, h * h * slope
        if more:
            for a in range(m):
                modes_by[i, a].zeta = e * modes_by[i, a].zeta + q * modes_by[i, a].rate
        for d in range(depots.size):
            depot, to = depots[d], passed[i, d]
            g, g_l, g_k = transfer(h, depot.ka, mode.decay, depot.kept, e)
            to.psi_l = e * (to.psi_l - h * to.psi) + g_l * depot.amount
            to.psi_k = e * to.psi_k + g * depot.amount_k + g_k * depot.amount
            to.psi = e * to.psi + g * depot.amount
            v = 0.0
            if depot.rate != 0.0:
                v = (q - g) / depot.ka
                to.psi += v * depot.rate
                to.psi_l += (q_l - g_l) / depot.ka * depot.rate
                to.psi_k -= (g_k + v) / depot.ka * depot.rate
            if more:
                for a in range(m):
                    by = depots_by[d, a]
                    modes_by[i, a].zeta += depot.kt * (g * by.amount + v * by.rate)
        mode.zeta_l = e * (mode.zeta_l - h * mode.zeta) + q_l * mode.rate
        mode.zeta = e * mode.zeta + q * mode.rate
    for d in range(depots.size):
        depot = depots[d]
        e, q, q_k = depot.kept, 0.0, 0.0
        if infusing:
            value, slope = phi(depot.ka * h)
            q, q_k = h * value, h * h * slope
        depot.amount_k = e * (depot.amount_k - h * depot.amount) + q_k * depot.rate
        depot.amount = e * depot.amount + q * depot.rate
        if more:
            for a in range(m):
                depots_by[d, a].amount = e * depots_by[d, a].amount + q * depots_by[d, a].rate


@apart
def amounts(s, parameters):  # type: ignore[no-untyped-def]
    """Amounts by state in ``s.y`` and, of so many ``parameters``, their derivatives in ``s.y_by``."""
    places, modes, depots, passed, exchange, modes_by, depots_by, exchange_by, y, y_by = (
        s.places, s.modes, s.depots, s.passed, s.exchange, s.modes_by, s.depots_by, s.exchange_by, s.y, s.y_by,
    )  # fmt: skip
    nd, nc = depots.size, modes.size
    for d in range(nd):
        depot = depots[d]
        y[places[d]] = depot.amount
        for a in range(parameters):
            by = depots_by[d, a]
            y_by[places[d], a] = depot.amount_k * by.ka + by.amount
    for j in range(nd, nd + nc):
        y[places[j]] = 0.0
        for a in range(parameters):
            y_by[places[j], a] = 0.0
    for i in range(nc):
        mode = modes[i]
        total, by_l = mode.zeta, mode.zeta_l
        for d in range(nd):
            total += depots[d].kt * passed[i, d].psi
            by_l += depots[d].kt * passed[i, d].psi_l
        y[places[nd]] += total * mode.weight
        for j in range(1, nc):
            y[places[nd + j]] += total * exchange[i, j].right
        for a in range(parameters):
            by = mode_by(s, i, a, by_l)
            y_by[places[nd], a] += by * mode.weight + total * modes_by[i, a].weight
            for j in range(1, nc):
                y_by[places[nd + j], a] += by * exchange[i, j].right + total * exchange_by[i, j, a].right


@compiled
def mode_by(s, i, a, by_l):  # type: ignore[no-untyped-def]
    """Derivative of mode i by parameter a from that by λ_i."""
    depots, passed, modes_by, depots_by = s.depots, s.passed, s.modes_by, s.depots_by
    by = by_l * modes_by[i, a].decay + modes_by[i, a].zeta
    for d in range(depots.size):
        of, to = depots_by[d, a], passed[i, d]
        by += depots[d].kt * to.psi_k * of.ka + to.psi * of.kt
    return by


@apart
def clear(s):  # type: ignore[no-untyped-def]
    """Nothing in any compartment."""
    more, modes, depots, passed, modes_by, depots_by, y_by = (
        s.more, s.modes, s.depots, s.passed, s.modes_by, s.depots_by, s.y_by,
    )  # fmt: skip
    m = y_by.shape[1]
    more[0] = False
    for d in range(depots.size):
        depots[d].amount = depots[d].amount_k = 0.0
        for a in range(m):
            depots_by[d, a].amount = 0.0
    for i in range(modes.size):
        modes[i].zeta = modes[i].zeta_l = 0.0
        for d in range(depots.size):
            to = passed[i, d]
            to.psi = to.psi_l = to.psi_k = 0.0
        for a in range(m):
            modes_by[i, a].zeta = 0.0


@compiled
def compartment_of(s, place):  # type: ignore[no-untyped-def]
    """Position of a state of the model among the depots, the central and the peripheral compartments."""
    places = s.places
    own = 0
    while places[own] != place:
        own += 1
    return own


@apart
def add(s, place, what, size, size_by):  # type: ignore[no-untyped-def]
    """Add a size, with derivatives (m,), to the amount or infusion rate (``what``) of a state of the model."""
    more, modes, depots, exchange, modes_by, depots_by, exchange_by, y_by = (
        s.more, s.modes, s.depots, s.exchange, s.modes_by, s.depots_by, s.exchange_by, s.y_by,
    )  # fmt: skip
    nd, m = depots.size, y_by.shape[1]
    own = compartment_of(s, place)
    changes = own > nd and size != 0.0
    for a in range(m):
        changes = changes or size_by[a] != 0.0
    more[0] = more[0] or changes
    if own < nd:
        if what == AMOUNT:
            depots[own].amount += size
        else:
            depots[own].rate += size
        for a in range(m if changes else 0):
            if what == AMOUNT:
                depots_by[own, a].amount += size_by[a]
            else:
                depots_by[own, a].rate += size_by[a]
        return
    for i in range(modes.size):
        share = exchange[i, own - nd].left if own > nd else 1.0
        if what == AMOUNT:
            modes[i].zeta += size * share
        else:
            modes[i].rate += size * share
        for a in range(m if changes else 0):
            by = size_by[a] * share
            if own > nd:
                by += size * exchange_by[i, own - nd, a].left
            if what == AMOUNT:
                modes_by[i, a].zeta += by
            else:
                modes_by[i, a].rate += by


@apart
def set_amounts(s):  # type: ignore[no-untyped-def]
    """The state whose amounts and derivatives are ``s.y`` and ``s.y_by``."""
    y, y_by = s.y, s.y_by
    clear(s)
    for place in range(y.size):
        if y[place] != 0.0:
            add(s, place, AMOUNT, y[place], y_by[place])


@apart
def spread(s):  # type: ignore[no-untyped-def]
    """Infusion rates into depots and modes from those into states."""
    more, modes, depots, modes_by, depots_by, y_by, rate, rate_by = (
        s.more, s.modes, s.depots, s.modes_by, s.depots_by, s.y_by, s.rate, s.rate_by,
    )  # fmt: skip
    m = y_by.shape[1]
    more[1] = False
    for i in range(modes.size):
        modes[i].rate = 0.0
        for a in range(m):
            modes_by[i, a].rate = 0.0
    for d in range(depots.size):
        depots[d].rate = 0.0
        for a in range(m):
            depots_by[d, a].rate = 0.0
    for place in range(rate.size):
        if rate[place] != 0.0:
            more[1] = True
            add(s, place, RATE, rate[place], rate_by[place])


@apart
def stop_infusions(s):  # type: ignore[no-untyped-def]
    """All infusion rates 0."""
    rate, rate_by = s.rate, s.rate_by
    for place in range(rate.size):
        rate[place] = 0.0
        for a in range(rate_by.shape[1]):
            rate_by[place, a] = 0.0
    spread(s)


@apart
def infuse(s, place, change, change_by, factor):  # type: ignore[no-untyped-def]
    """Change the infusion rate into a state of the model by ``factor`` times a rate."""
    rate, rate_by = s.rate, s.rate_by
    rate[place] += factor * change
    ended = abs(rate[place]) < 1e-12 * abs(change)
    if ended:
        rate[place] = 0.0  # rounding after the last infusion has ended
    for a in range(rate_by.shape[1]):
        rate_by[place, a] = 0.0 if ended else rate_by[place, a] + factor * change_by[a]
    spread(s)
