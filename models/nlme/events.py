"""Event tables in NM-TRAN's columns: reading, checking, and exact simulation of linear models.

Rows are events of subjects in the order of time: EVID 0 observation, 1 dose, 2 other, 3 reset, 4 reset and dose. A dose
may have RATE (> 0 a rate; -1 or -2: rate or duration is a parameter), ADDL further doses every II, and SS 1 (steady
state instead of what there is) or 2 (steady state on top of it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import ArrayLike, NDArray

from core.errors import ConfigError
from models.nlme.structural import StructuralModel

FloatArray = NDArray[np.float64]
REQUIRED = ("ID", "TIME", "EVID")
DEFAULTS = {"AMT": 0.0, "RATE": 0.0, "CMT": 1.0, "ADDL": 0.0, "II": 0.0, "SS": 0.0, "DV": np.nan, "MDV": np.nan}


@dataclass(frozen=True)
class DosingParameters:
    """What the individual parameters say about doses, by 1-based compartment.

    ``lag`` (time, default 0), ``bioavailability`` (default 1), and the ``rate`` (amount per time) or ``duration`` of
    doses with RATE -1 or -2.
    """

    lag: Mapping[int, float] = field(default_factory=dict)
    bioavailability: Mapping[int, float] = field(default_factory=dict)
    rate: Mapping[int, float] = field(default_factory=dict)
    duration: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class EventTable:
    """Checked event table: float64 columns by NM-TRAN name, all of one length. Build it with :func:`event_table`."""

    columns: dict[str, FloatArray]

    def __len__(self) -> int:
        return len(self.columns["ID"])

    def __getitem__(self, name: str) -> FloatArray:
        return self.columns[name]

    def subjects(self) -> Iterator[tuple[int, slice]]:
        """Each subject's id and rows."""
        ids = self["ID"]
        cuts = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
        for start, stop in pairwise(cuts):
            yield int(ids[start]), slice(start, stop)


def event_table(columns: Mapping[str, ArrayLike], model: StructuralModel) -> EventTable:
    """Check a table's columns (names in any case; ID, TIME and EVID are needed) against a model.

    Raises:
        ConfigError: names the row (1-based) and what is wrong with it.
    """
    given = {name.upper(): np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    for name in REQUIRED:
        if name not in given:
            raise ConfigError("event table lacks a column", expected=", ".join(REQUIRED), got=", ".join(given))
    n = len(given["ID"])
    full = {name: given[name] for name in REQUIRED}
    full |= {name: given.get(name, np.full(n, default)) for name, default in DEFAULTS.items()}
    for name, values in full.items():
        if values.shape != (n,):
            raise ConfigError(f"column {name} has another length than ID", expected=n, got=values.shape)
    table = EventTable(full)
    _check(table, model)
    return table


def read_events(path: str | Path, model: StructuralModel) -> EventTable:
    """The event table of a CSV (with a header; ``.`` means missing) or Parquet file; ConfigError if it is unusable."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError("no such event table", got=file)
    if file.suffix == ".parquet":
        content = pa.parquet.read_table(file)
    else:
        options = pa.csv.ConvertOptions(null_values=["", ".", "NA"])
        content = pa.csv.read_csv(file, convert_options=options)
    known = [name for name in content.column_names if name.upper() in (*REQUIRED, *DEFAULTS)]
    columns: dict[str, FloatArray] = {}
    for name in known:
        default = DEFAULTS.get(name.upper(), np.nan)
        values = content[name].to_pylist()
        columns[name] = np.array([default if value is None else float(value) for value in values])
    return event_table(columns, model)


def _check(table: EventTable, model: StructuralModel) -> None:
    evid, dose = table["EVID"], np.isin(table["EVID"], (1, 4))
    seen: set[int] = set()
    for subject, rows in table.subjects():
        if subject in seen:
            raise ConfigError("rows of a subject are not together", where=f"ID {subject}, row {rows.start + 1}")
        seen.add(subject)
        down = np.flatnonzero(np.diff(table["TIME"][rows]) < 0)
        if len(down):
            row = rows.start + int(down[0]) + 1
            raise ConfigError(
                "unsorted times",
                where=f"row {row + 1}",
                expected=f"≥ {table['TIME'][row - 1]:g}",
                got=table["TIME"][row],
            )
    rate, interval = table["RATE"], table["II"]
    problems = (
        (~np.isfinite(table["TIME"]), "TIME", "a finite number"),
        (~np.isin(evid, range(5)), "EVID", "0, 1, 2, 3 or 4"),
        (dose & ~(table["AMT"] > 0), "AMT", "a positive amount in a dose row"),
        (dose & ~((rate >= 0) | np.isin(rate, (-1, -2))), "RATE", "≥ 0, -1 or -2"),
        (dose & ~np.isin(table["CMT"], range(1, len(model.states) + 1)), "CMT", f"1 to {len(model.states)}"),
        (dose & ~np.isin(table["SS"], (0, 1, 2)), "SS", "0, 1 or 2"),
        (dose & ~((table["ADDL"] >= 0) & (table["ADDL"] % 1 == 0)), "ADDL", "a whole number ≥ 0"),
        (dose & ((table["ADDL"] > 0) | (table["SS"] > 0)) & ~(interval > 0), "II", "> 0 with ADDL or SS"),
    )
    for bad, column, expected in problems:
        if bad.any():
            row = int(np.argmax(bad))
            raise ConfigError(
                f"event table: impossible {column}", where=f"row {row + 1}", expected=expected, got=table[column][row]
            )


class LinearSubject:
    """Exact course of one subject under a linear model: matrix exponentials from event to event.

    Args:
        model: a structural model whose equations are linear in the states, without constant or time-varying terms.
        parameters: its individual parameters, (p,).
        dosing: lag times, bioavailabilities, modelled rates and durations.

    Raises:
        ConfigError: the model is not of that kind.
    """

    def __init__(self, model: StructuralModel, parameters: ArrayLike, dosing: DosingParameters) -> None:
        from models.nlme.codegen import generated_kernel

        n = len(model.states)
        self.kernel, self.dosing = generated_kernel(model), dosing
        self.parameters = np.ascontiguousarray(parameters, dtype=np.float64)
        self.matrix, constant = np.zeros((n, n)), np.zeros(n)
        self.kernel.rhs(0.0, np.zeros(n), self.parameters, constant)
        self.kernel.jacobian(0.0, np.zeros(n), self.parameters, self.matrix)
        later = np.zeros((n, n))
        self.kernel.jacobian(1.0, np.zeros(n), self.parameters, later)
        if not self.kernel.LINEAR or constant.any() or (later != self.matrix).any():
            raise ConfigError(f"model {model.name!r} has no exact solution by matrix exponentials", expected="x' = A x")
        self.reset()

    def reset(self) -> None:
        """Empty every compartment, stop infusions and forget doses still to come."""
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
            out[index] = self.kernel.output(self.now, self.x, self.parameters)
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
        """States after ``duration`` (negative: before) of a constant rate, within the compartments that matter."""
        from scipy.linalg import expm

        # compartments that nothing reaches stay empty; backwards in time their fast rates would swamp the others
        used = (x != 0) | (rate != 0)
        for _ in used:
            used = used | (self.matrix[:, used] != 0).any(axis=1)
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
            self._steady_state(unit, amount, rate, duration, event["II"], arrival)
        nothing = np.zeros(len(unit))
        for m in range(int(event["ADDL"]) + 1):
            at = arrival + m * event["II"]
            if duration > 0:
                self.pending += [(at, nothing, rate * unit), (at + duration, nothing, -rate * unit)]
            else:
                self.pending.append((at, amount * unit, nothing))

    def _modelled(self, values: Mapping[int, float], compartment: int, what: str) -> float:
        value = values.get(compartment, 0.0)
        if not value > 0:
            raise ConfigError(
                f"a dose asks for a modelled {what} that is not there",
                where=f"compartment {compartment}",
                expected="a positive value",
                got=value,
            )
        return value

    def _steady_state(
        self, unit: FloatArray, amount: float, rate: float, duration: float, interval: float, arrival: float
    ) -> None:
        """Add the state that doses every ``interval`` for ever, the next one at ``arrival``, have led to by now.

        As NONMEM does, the state just before ``arrival`` is carried back over the lag time. No earlier dose arrives on
        the way; before the last interval infusions stay as they are at its beginning. (With a lag longer than the
        interval that can give negative amounts.)
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


def simulate_events(
    model: StructuralModel,
    parameters: ArrayLike,
    table: EventTable,
    dosing: Mapping[int, DosingParameters] | DosingParameters | None = None,
) -> FloatArray:
    """Noise-free predictions at every row of an event table, for a linear model.

    Args:
        model: the structural model.
        parameters: individual parameters, (p,) for all subjects or (n, p) in the table's order of subjects.
        table: the events.
        dosing: dosing parameters for all subjects, or by subject id.

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
        out[rows] = LinearSubject(model, row_parameters, own or DosingParameters()).run(table, rows)
    return out
