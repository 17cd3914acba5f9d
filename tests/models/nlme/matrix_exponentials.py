"""Exact predictions of linear models, by matrix exponentials from event to event: the reference of the integrators."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import expm

from image_longitudinal.models.nlme.data.events import EventTable
from image_longitudinal.models.nlme.kernels.codegen import generated_kernel
from image_longitudinal.models.nlme.model.structural import StructuralModel

FloatArray = NDArray[np.float64]


def linear_predictions(model: StructuralModel, parameters: ArrayLike, table: EventTable) -> FloatArray:
    """Predictions at every row of an event table, (rows,), by parameters (p,) of all subjects or (n, p) of each."""
    subjects = list(table.subjects())
    values = np.broadcast_to(np.asarray(parameters, dtype=np.float64), (len(subjects), len(model.parameters)))
    return np.concatenate(
        [Subject(model, own).run(table, rows) for (_, rows), own in zip(subjects, values, strict=True)]
    )


class Subject:
    """Exact integration of one subject under a model x' = A x, with individual parameters (p,)."""

    def __init__(self, model: StructuralModel, parameters: FloatArray) -> None:
        n = len(model.states)
        self.kernel = generated_kernel(model)
        assert self.kernel.LINEAR
        assert not model.covariates
        self.parameters = np.append(parameters, 0.0)  # (the last: see generate_source)
        self.matrix, self.modifiers = np.zeros((n, n)), np.tile([0.0, 1.0, 0.0, 0.0], n)
        self.kernel.jacobian(0.0, np.zeros(n), self.parameters, self.matrix)
        if self.kernel.MODELLED:
            self.kernel.dosing(0.0, self.parameters, self.modifiers)
        self.reset()

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
            out[index] = self.kernel.output(0, self.now, self.x, self.parameters)
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

    def _dose(self, event: dict[str, float]) -> None:
        compartment = int(event["CMT"]) - 1
        unit = np.eye(len(self.matrix))[compartment]
        lag, bioavailability, modelled_rate, modelled_duration = self.modifiers[4 * compartment : 4 * compartment + 4]
        amount, rate, duration = bioavailability * event["AMT"], event["RATE"], 0.0
        if rate == -1:
            rate = modelled_rate
        elif rate == -2:
            rate = amount / modelled_duration
        if rate > 0:
            duration = amount / rate
        arrival = event["TIME"] + lag
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
