"""Exact predictions of linear models, by matrix exponentials from event to event: the reference of the integrators."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import expm

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.events import EventTable
from image_longitudinal.models.nlme.kernels.codegen import generated_kernel
from image_longitudinal.models.nlme.model.structural import MODIFIERS, StructuralModel
from tests.models.nlme.compiled_functions import from_python

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class DosingParameters:
    """How the individual parameters modify doses, by 1-based compartment.

    ``lag`` (time, default 0), ``bioavailability`` (default 1), and the ``rate`` (amount per time) or ``duration`` of
    doses with RATE -1 or -2.
    """

    lag: Mapping[int, float] = field(default_factory=dict)
    bioavailability: Mapping[int, float] = field(default_factory=dict)
    rate: Mapping[int, float] = field(default_factory=dict)
    duration: Mapping[int, float] = field(default_factory=dict)


def linear_predictions(
    model: StructuralModel,
    parameters: ArrayLike,
    table: EventTable,
    dosing: Mapping[int, DosingParameters] | DosingParameters | None = None,
) -> FloatArray:
    """Exact noise-free predictions at every row of an event table, for a linear model without covariates.

    Args:
        model: the structural model.
        parameters: individual parameters, (p,) for all subjects or (n, p) in the table's order of subjects.
        table: the events.
        dosing: dosing parameters for all subjects, or by subject id; the model's own if None.

    Returns:
        float64, (rows,).

    Raises:
        ConfigError: the model is not linear, or the parameters do not fit table and model.
    """
    subjects = list(table.subjects())
    values = np.asarray(parameters, dtype=np.float64)
    if values.shape not in ((len(model.parameters),), (len(subjects), len(model.parameters))):
        raise ConfigError(
            f"parameters do not fit model {model.name!r} and the table",
            expected=f"shape ({len(subjects)}, {len(model.parameters)}) or ({len(model.parameters)},)",
            got=values.shape,
        )
    values = np.broadcast_to(values, (len(subjects), len(model.parameters)))
    out = np.empty(len(table))
    for (subject, rows), row_parameters in zip(subjects, values, strict=True):
        own = dosing.get(subject) if isinstance(dosing, Mapping) else dosing
        out[rows] = LinearSubject(model, row_parameters, own).run(table, rows)
    return out


class LinearSubject:
    """Exact integration of one subject under a linear model.

    Args:
        model: a structural model whose equations are linear in the states, without constant or time-varying terms.
        parameters: its individual parameters, (p,).
        dosing: lag times, bioavailabilities, modelled rates and durations; the model's own if None.

    Raises:
        ConfigError: the model is not of that kind.
    """

    def __init__(self, model: StructuralModel, parameters: ArrayLike, dosing: DosingParameters | None = None) -> None:
        n = len(model.states)
        self.kernel = generated_kernel(model)
        self.parameters = np.append(np.asarray(parameters, dtype=np.float64), 0.0)  # (the last: see generate_source)
        self.matrix, constant = np.zeros((n, n)), np.zeros(n)
        from_python(self.kernel.rhs)(0.0, np.zeros(n), self.parameters, constant)
        from_python(self.kernel.jacobian)(0.0, np.zeros(n), self.parameters, self.matrix)
        later = np.zeros((n, n))
        from_python(self.kernel.jacobian)(1.0, np.zeros(n), self.parameters, later)
        if not self.kernel.LINEAR or model.covariates or constant.any() or (later != self.matrix).any():
            raise ConfigError(f"model {model.name!r} has no exact solution by matrix exponentials", expected="x' = A x")
        self.dosing = dosing or self._own_dosing(n)
        self.reset()

    def _own_dosing(self, n: int) -> DosingParameters:
        """The model's own dosing parameters."""
        if not self.kernel.MODELLED:
            return DosingParameters()
        values = np.empty(4 * n)
        from_python(self.kernel.dosing)(0.0, self.parameters, values)
        by_name = values.reshape(n, 4).T
        return DosingParameters(
            **{name: dict(enumerate(row.tolist(), 1)) for name, row in zip(MODIFIERS, by_name, strict=True)}
        )

    def reset(self) -> None:
        """Empty every compartment, stop infusions and cancel pending doses."""
        n = len(self.matrix)
        self.x, self.rate = np.zeros(n), np.zeros(n)
        self.pending: list[tuple[float, FloatArray, FloatArray]] = []  # time, bolus, change of rate

    def run(self, table: EventTable, rows: slice) -> FloatArray:
        """Predictions at every row (dose rows: after the dose, except what arrives later), (rows,)."""
        out = np.empty(rows.stop - rows.start)
        self.reset()
        self.now = float(table["TIME"][rows.start])
        for index, row in enumerate(range(rows.start, rows.stop)):
            event = {name: float(values[row]) for name, values in table.columns.items()}
            self._go_to(event["TIME"])
            if event["EVID"] in (3, 4):
                self.reset()
            if event["EVID"] in (1, 4):
                self._dose(event)
                self._go_to(event["TIME"])
            out[index] = from_python(self.kernel.output)(0, self.now, self.x, self.parameters)
        return out

    def _go_to(self, time: float) -> None:
        """Advance, applying what arrives up to and including ``time``."""
        self.pending.sort(key=lambda item: item[0])
        while self.pending and self.pending[0][0] <= time:
            at, bolus, change = self.pending.pop(0)
            self.x = self._propagate(self.x, self.rate, at - self.now) + bolus
            self.rate = self.rate + change
            self.now = at
        self.x = self._propagate(self.x, self.rate, time - self.now)
        self.now = time

    def _propagate(self, x: FloatArray, rate: FloatArray, duration: float) -> FloatArray:
        """States after ``duration`` (negative: before) of a constant rate, within the compartments that are reached."""
        # other compartments stay empty; backwards in time their fast rates would dominate
        used = self._reached((x != 0) | (rate != 0))
        if duration == 0 or not used.any():
            return x
        size = int(used.sum())
        block = np.zeros((size + 1, size + 1))
        block[:size, :size] = self.matrix[np.ix_(used, used)]
        block[:size, size] = rate[used]
        result = np.zeros_like(x)
        result[used] = (expm(block * duration) @ np.append(x[used], 1.0))[:size]
        return result

    def _dose(self, event: Mapping[str, float]) -> None:
        compartment = int(event["CMT"])
        unit = np.eye(len(self.matrix))[compartment - 1]
        amount = self.dosing.bioavailability.get(compartment, 1.0) * event["AMT"]
        rate, duration = event["RATE"], 0.0
        if rate == -1:
            rate = self._modelled(self.dosing.rate, compartment, "rate")
        elif rate == -2:
            rate = amount / self._modelled(self.dosing.duration, compartment, "duration")
        if rate > 0:
            duration = amount / rate
        arrival = event["TIME"] + self.dosing.lag.get(compartment, 0.0)
        if event["SS"] > 0:
            if event["SS"] == 1:
                self.reset()
            if event["II"] == 0:  # a constant infusion, which ends now
                self.x = self.x + self._limit(rate * unit)
                return
            self._steady_state(unit, amount, rate, duration, event["II"], arrival)
        nothing = np.zeros(len(unit))
        for m in range(int(event["ADDL"]) + 1):
            at = arrival + m * event["II"]
            if duration > 0:
                self.pending += [(at, nothing, rate * unit), (at + duration, nothing, -rate * unit)]
            else:
                self.pending.append((at, amount * unit, nothing))

    def _limit(self, rate: FloatArray) -> FloatArray:
        """Limit under a constant rate, within the compartments it reaches."""
        used = self._reached(rate != 0)
        result = np.zeros_like(rate)
        result[used] = np.linalg.solve(self.matrix[np.ix_(used, used)], -rate[used])
        return result

    def _reached(self, used: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The compartments ``used`` and those reached from them."""
        for _ in used:
            used = used | (self.matrix[:, used] != 0).any(axis=1)
        return used

    def _modelled(self, values: Mapping[int, float], compartment: int, what: str) -> float:
        value = values.get(compartment, 0.0)
        if not value > 0:
            raise ConfigError(
                f"a dose has a modelled {what} that the model lacks",
                where=f"compartment {compartment}",
                expected="a positive value",
                got=value,
            )
        return value

    def _steady_state(
        self, unit: FloatArray, amount: float, rate: float, duration: float, interval: float, arrival: float
    ) -> None:
        """Add the steady state of doses every ``interval``, the next one at ``arrival``, at the present time.

        As NONMEM does, the state just before ``arrival`` is carried back over the lag time. No earlier dose arrives
        in between; before the last interval infusions stay as they are at its beginning. (With a lag time above
        the interval amounts can be negative.)
        """
        nothing = np.zeros(len(unit))
        overlaps, rest = divmod(duration, interval)  # infusions longer than the interval overlap
        low, high = overlaps * rate * unit, (overlaps + 1) * rate * unit
        start = nothing if duration > 0 else amount * unit

        def one_interval(x: FloatArray) -> FloatArray:
            return self._propagate(self._propagate(x + start, high, rest), low, interval - rest)

        particular = one_interval(nothing)
        used = particular != 0
        columns = [self._propagate(column, nothing, interval) for column in np.eye(len(unit))]
        growth = np.stack(columns, axis=1)[np.ix_(used, used)]
        trough = nothing.copy()
        trough[used] = np.linalg.solve(np.eye(int(used.sum())) - growth, particular[used])
        back, plain = arrival - self.now, interval - rest
        x = self._propagate(trough, low, -min(back, plain))
        self.rate = self.rate + low
        if back > plain and rest > 0:
            x = self._propagate(x, high, plain - back)
            self.rate = self.rate + (high - low)
            self.pending.append((arrival - plain, nothing, low - high))
        elif back > plain:
            x = self._propagate(x, low, plain - back)
        self.x = self.x + x
        for m in range(1, int(overlaps) + 1):
            self.pending.append((arrival - m * interval + duration, nothing, -rate * unit))
