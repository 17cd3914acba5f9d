"""Records and codes that compiled kernels share.

Arrays of one subject: n states, m parameters (0 without sensitivities). A name that ends in ``_by`` is the derivative
of the quantity with respect to the individual parameters, with m as its last dimension.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.nlme.kernels.compiled import compiled, inlined

Vector = NDArray[np.float64]
DOSE, STEADY_STATE, STEADY_STATE_ADDED, RESET, COVARIATES = range(5)  # kinds of event; the second and third: SS 1 and 2
GOOD, NOT_INTEGRATED, NO_STEADY_STATE, IMPOSSIBLE_DOSE = range(4)  # why a subject failed
EXPLICIT_STAGES, IMPLICIT_STAGES = 12, 6  # of dop853 and esdirk
REACHED, STEP_SIZE, IS_STIFF = range(3)  # of ``SolverWorkspace.explicit``: time reached, next step size, 1 if stiff


class EventArrays(NamedTuple):
    """Observations (N,) and events (E,) of n subjects; fields as in ``data.population_data.PopulationData``.

    All arrays are contiguous and writable, so that there is one compiled signature.
    """

    row_start: NDArray[np.int64]
    times: NDArray[np.float64]
    observed: NDArray[np.float64]
    before: NDArray[np.int64]
    endpoint: NDArray[np.int64]
    censored: NDArray[np.bool_]
    event_start: NDArray[np.int64]
    when: NDArray[np.float64]
    kind: NDArray[np.int64]
    compartment: NDArray[np.int64]
    amount: NDArray[np.float64]
    rate: NDArray[np.float64]
    interval: NDArray[np.float64]
    covariates: NDArray[np.float64]


class State(NamedTuple):
    """A subject at one time, updated in place."""

    y: Vector  # (n,) states
    y_by: Vector  # (n, m)
    size: Vector  # (n,) largest absolute value each state has had: what tolerances are relative to
    rate: Vector  # (n,) infusion rates
    rate_by: Vector  # (n, m)


class SolverWorkspace(NamedTuple):
    """Scratch arrays of the integrators; ``explicit`` must be 0 for a new subject."""

    explicit: Vector  # (3,) see :data:`REACHED`
    explicit_k: Vector  # (12, n) stages of the explicit integrator
    k: Vector  # (6, n) derivative at each stage
    k_by: Vector  # (6, n, m)
    z: Vector  # (n,) state of the stage
    z_by: Vector  # (n, m)
    base: Vector  # (n,) contribution of the earlier stages
    base_by: Vector  # (n, m)
    lu: Vector  # (n, n) factors of Newton's matrix
    pivot: NDArray[np.int64]  # (n,)
    scale: Vector  # (n,) tolerance of each state
    column: Vector  # (n,)
    lu_by: Vector  # (n, n) factors for the sensitivities
    pivot_by: NDArray[np.int64]  # (n,)


class EventQueue(NamedTuple):
    """What happens to a subject later (arrivals after a lag time, ends of infusions): Q entries, unordered."""

    time: Vector  # (Q,)
    compartment: NDArray[np.int64]  # (Q,)
    bolus: Vector  # (Q,) amount added to the compartment
    rate_change: Vector  # (Q,) change of its infusion rate
    repeats: Vector  # (Q,) how often the entry comes again
    interval: Vector  # (Q,) time between repeats
    bolus_by: Vector  # (Q, m)
    rate_change_by: Vector  # (Q, m)
    time_by: Vector  # (Q, m)
    length: NDArray[np.int64]  # (1,) entries in use


# A dose as the parameters modify it, and how far its steady state is: one element of a structured array.
DOSE_RECORD = np.dtype(
    [
        ("amount", np.float64),  # NM-TRAN's AMT, times the bioavailability
        ("rate", np.float64),  # RATE, 0 for a bolus
        ("duration", np.float64),  # DUR, of the infusion
        ("lag", np.float64),
        ("compartment", np.int64),  # 0-based
        ("interval", np.float64),  # II
        ("overlap", np.float64),  # of infusions longer than II: how many run at any time,
        ("remainder", np.float64),  # and how long after a dose one more does
        ("added", np.bool_),  # SS 2: steady state added to the present state
        ("cycle", np.int64),  # dosing intervals integrated so far
        ("change", np.float64),  # relative change of the states over the last interval
        ("stage", np.int64),  # of kernels.doses
        ("begin", np.float64),  # the next piece to integrate, relative to the dose
        ("end", np.float64),
        ("stop", np.float64),  # end of the present interval
    ]
)


class DosePlan(NamedTuple):
    """The dose that is being given, with the states to restore or compare while its steady state is found."""

    dose: NDArray[np.void]  # (1,) of DOSE_RECORD
    amount_by: Vector  # (m,)
    rate_by: Vector  # (m,)
    duration_by: Vector  # (m,)
    lag_by: Vector  # (m,)
    present: Vector  # (n,) states before the dose
    present_by: Vector  # (n, m)
    infusing: Vector  # (n,) infusion rates before the dose
    infusing_by: Vector  # (n, m)
    initial: Vector  # (n,) the model's initial states
    initial_by: Vector  # (n, m)
    previous: Vector  # (n,) states one dosing interval ago
    previous_by: Vector  # (n, m)


class EstimationProblem(NamedTuple):
    """A population model and data at given population parameters: what the individual level of estimation needs."""

    model: NDArray[np.int64]  # of kernels.calls
    precision: Vector  # (k, k) Ω⁻¹
    random: NDArray[np.int64]  # (k,) positions of the parameters with a random effect
    scales: NDArray[np.int64]  # (p,) places in model.population.DISTRIBUTIONS
    kinds: NDArray[np.int64]  # (endpoints,) places in model.residual_error.KINDS
    error: Vector  # (3 * endpoints,) additive, proportional, power of each
    interaction: bool  # residual variances at the individual prediction, not at that for η = 0
    data: EventArrays
    tolerance: float  # of the solver, per step


class Rows(NamedTuple):
    """What the likelihood of observations is made from; fields as in :class:`EstimationProblem` and its data.

    A record of its own, because one of 20 arrays takes longer to hand to a function than a row takes.
    """

    kinds: NDArray[np.int64]
    interaction: bool
    observed: Vector
    endpoint: NDArray[np.int64]
    censored: NDArray[np.bool_]
    typical: Vector  # (N,) predictions at η = 0, for the residual variances; not used with interaction


@inlined
def rows_of(problem, typical):  # type: ignore[no-untyped-def]
    """The rows of an :class:`EstimationProblem`."""
    data = problem.data
    return Rows(problem.kinds, problem.interaction, data.observed, data.endpoint, data.censored, typical)


@compiled
def new_state(n, m):  # type: ignore[no-untyped-def]
    """A state of zeros."""
    return State(np.zeros(n), np.zeros((n, m)), np.zeros(n), np.zeros(n), np.zeros((n, m)))


@compiled
def new_workspace(n, m):  # type: ignore[no-untyped-def]
    """Scratch arrays for n states and m sensitivities."""
    return SolverWorkspace(
        np.zeros(3), np.zeros((EXPLICIT_STAGES, n)), np.zeros((IMPLICIT_STAGES, n)), np.zeros((IMPLICIT_STAGES, n, m)),
        np.zeros(n), np.zeros((n, m)), np.zeros(n), np.zeros((n, m)), np.zeros((n, n)), np.zeros(n, dtype=np.int64),
        np.zeros(n), np.zeros(n), np.zeros((n, n)), np.zeros(n, dtype=np.int64),
    )  # fmt: skip


@compiled
def new_queue(size, m):  # type: ignore[no-untyped-def]
    """An empty queue with room for ``size`` entries."""
    return EventQueue(
        np.zeros(size), np.zeros(size, dtype=np.int64), np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size),
        np.zeros((size, m)), np.zeros((size, m)), np.zeros((size, m)), np.zeros(1, dtype=np.int64),
    )  # fmt: skip


@compiled
def new_plan(n, m):  # type: ignore[no-untyped-def]
    """A plan without a dose."""
    return DosePlan(
        np.zeros(1, dtype=DOSE_RECORD), np.zeros(m), np.zeros(m), np.zeros(m), np.zeros(m), np.zeros(n),
        np.zeros((n, m)), np.zeros(n), np.zeros((n, m)), np.zeros(n), np.zeros((n, m)), np.zeros(n), np.zeros((n, m)),
    )  # fmt: skip
