"""Linear compartments as independent exponentials, and how these depend on the parameters.

Depots feed the central compartment, which exchanges with peripheral ones (a star). With rates k₀ (all loss of the
central compartment), a_j (central → peripheral j), b_j (back) and d_j (all loss of j) the star's matrix has the real
eigenvalues -λ_i of a symmetric matrix S with diagonal (k₀, d) and -√(a_j b_j) beside it. With its eigenvectors u, mode
i is ζ_i = central + Σ l_ij peripheral_j, which decays at the rate λ_i and takes every input to the central compartment
as it is; back, central = Σ w_i ζ_i and peripheral_j = Σ r_ij ζ_i, where with 1/D_ij = u_ji / (u_0i √(a_j b_j)), the
inverse of d_j - λ_i,

    w_i = u_0i²,    l_ij = b_j / D_ij,    r_ij = w_i a_j / D_ij.

Derivatives come from the secular equation k₀ - λ = Σ a_j b_j / (d_j - λ), without differences of eigenvalues.
"""

import math

from image_longitudinal.models.nlme.kernels import calls
from image_longitudinal.models.nlme.kernels.compiled import apart

SWEEPS = 30  # of Jacobi's method at most; 3 x 3 takes 4 or 5
NO_EXCHANGE = 1e-20  # a_j b_j relative to squared rates below which an exchange is taken to have this size


@apart
def renew(model, t, p, s):  # type: ignore[no-untyped-def]
    """Modes for parameters ``p`` at time t into ``s`` (kernels.linear_state.Linear); whether they are real."""
    rates, rates_by, modes, depots, exchange, modes_by, depots_by, exchange_by, y_by = (
        s.rates, s.rates_by, s.modes, s.depots, s.exchange, s.modes_by, s.depots_by, s.exchange_by, s.y_by,
    )  # fmt: skip
    m, nd, nc = y_by.shape[1], depots.size, modes.size
    calls.call_rates(model, (t, p, rates, rates_by))
    for d in range(nd):
        depots[d].ka, depots[d].kt = rates[2 * d], rates[2 * d + 1]
        for a in range(m):
            depots_by[d, a].ka, depots_by[d, a].kt = rates_by[2 * d, a], rates_by[2 * d + 1, a]
    if nc == 1:
        modes[0].decay, modes[0].weight = rates[2 * nd], 1.0
        for a in range(m):
            modes_by[0, a].decay = rates_by[2 * nd, a]
        return math.isfinite(rates[2 * nd])
    loss, x = rates[2 * nd], exchange
    for i in range(nc):
        for j in range(nc):
            x[i, j].matrix, x[i, j].vector = 0.0, 1.0 if i == j else 0.0
    x[0, 0].matrix = loss
    for j in range(1, nc):
        at = 2 * nd + 3 * j - 2
        d, exchanged = rates[at + 2], rates[at] * rates[at + 1]
        if not exchanged >= 0.0:
            return False
        root = math.sqrt(max(exchanged, NO_EXCHANGE * (loss * loss + d * d) + 1e-300))
        modes[j].root = root
        x[0, j].matrix = x[j, 0].matrix = -root
        x[j, j].matrix = d
    if not _diagonalise(x):
        return False
    for i in range(nc):
        u0 = x[0, i].vector
        if abs(u0) < 1e-100:  # a mode of peripheral compartments alone
            u0 = 1e-100
        w = u0 * u0
        modes[i].decay, modes[i].weight = x[i, i].matrix, w
        for j in range(1, nc):
            at = 2 * nd + 3 * j - 2
            inverse = x[j, i].vector / (modes[j].root * u0)
            x[i, j].inverse = inverse
            x[i, j].left, x[i, j].right = rates[at + 1] * inverse, w * rates[at] * inverse
        for q in range(m):
            decay_by, weight_by = w * rates_by[2 * nd, q], 0.0
            for j in range(1, nc):
                at, u = 2 * nd + 3 * j - 2, x[j, i].vector
                exchanged_by = rates_by[at, q] * rates[at + 1] + rates[at] * rates_by[at + 1, q]
                decay_by += u * u * rates_by[at + 2, q] - w * x[i, j].inverse * exchanged_by
            for j in range(1, nc):
                at, u, inverse = 2 * nd + 3 * j - 2, x[j, i].vector, x[i, j].inverse
                exchanged_by = rates_by[at, q] * rates[at + 1] + rates[at] * rates_by[at + 1, q]
                apart = rates_by[at + 2, q] - decay_by
                weight_by -= w * inverse * (w * inverse * exchanged_by - 2.0 * u * u * apart)
            modes_by[i, q].decay, modes_by[i, q].weight = decay_by, weight_by
            for j in range(1, nc):
                at, inverse = 2 * nd + 3 * j - 2, x[i, j].inverse
                a, b = rates[at], rates[at + 1]
                squared = inverse * inverse * (rates_by[at + 2, q] - decay_by)
                exchange_by[i, j, q].left = rates_by[at + 1, q] * inverse - b * squared
                to = (weight_by * a + w * rates_by[at, q]) * inverse
                exchange_by[i, j, q].right = to - w * a * squared
    return True


@apart
def _diagonalise(x):  # type: ignore[no-untyped-def]
    """Jacobi's method: eigenvalues of ``matrix`` (n, n) on its diagonal, eigenvectors in the columns of ``vector``."""
    n = x.shape[0]
    for _ in range(SWEEPS):
        rest, size = 0.0, 0.0
        for i in range(n):
            size += x[i, i].matrix * x[i, i].matrix
            for j in range(i):
                rest += x[i, j].matrix * x[i, j].matrix
        if not size + rest < math.inf:
            return False
        if rest <= 1e-36 * size:
            return True
        for i in range(n):
            for j in range(i + 1, n):
                off = x[i, j].matrix
                if off == 0.0:
                    continue
                theta = (x[j, j].matrix - x[i, i].matrix) / (2.0 * off)
                t = 1.0 / (abs(theta) + math.sqrt(theta * theta + 1.0))
                if theta < 0.0:
                    t = -t
                c = 1.0 / math.sqrt(t * t + 1.0)
                sine = t * c
                x[i, i].matrix -= t * off
                x[j, j].matrix += t * off
                x[i, j].matrix = x[j, i].matrix = 0.0
                for k in range(n):
                    if k != i and k != j:
                        ki, kj = x[k, i].matrix, x[k, j].matrix
                        x[k, i].matrix = x[i, k].matrix = c * ki - sine * kj
                        x[k, j].matrix = x[j, k].matrix = sine * ki + c * kj
                    vi, vj = x[k, i].vector, x[k, j].vector
                    x[k, i].vector, x[k, j].vector = c * vi - sine * vj, sine * vi + c * vj
    return True
